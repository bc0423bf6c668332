"""The write path of a socket, plain and TLS, with a peer that reads, stalls or goes away."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import trustme
from gevent import socket, ssl

from juggler.process.output import Output, nonblocking, readable
from tests.support import eventually

Pair = tuple[Any, Any]


def plain_pair() -> Pair:
    return socket.socketpair()


def tls_pair() -> Pair:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    sock, peer = socket.socketpair()
    wrapping = gevent.spawn(client.wrap_socket, peer, server_hostname="localhost")
    return server.wrap_socket(sock, server_side=True), wrapping.get()


class End:
    """An output and its peer."""

    def __init__(self, pair: Pair) -> None:
        self.sock, self.peer = pair
        self.lost: list[OSError] = []
        self.output = Output(nonblocking(self.sock), self.lost.append)

    def read(self, count: int) -> bytes:
        """Read exactly ``count`` bytes at the peer."""
        data = bytearray()
        with gevent.Timeout(30):
            while len(data) < count:
                data += self.peer.recv(min(65536, count - len(data)))
        return bytes(data)

    def fill(self) -> int:
        """Send until something is left over. Return the number of bytes sent and queued."""
        sent = 0
        while not self.output.queued:
            self.output.send(b"x" * 10_000)
            sent += 10_000
            gevent.sleep(0.001)
        return sent


@pytest.fixture(params=[plain_pair, tls_pair])
def end(request: Any) -> Iterator[End]:
    end = End(request.param())
    yield end
    end.output.close()
    end.sock.close()
    end.peer.close()


def test_the_first_chunk_of_a_turn_is_sent_at_once_and_the_others_joined(end):
    gevent.sleep(0.001)
    for chunk in (b"one", b"two", b"three"):
        end.output.send(chunk)
    assert end.output.queued == len(b"twothree")
    assert end.read(3) == b"one"
    assert end.peer.recv(100) == b"twothree"
    assert end.output.queued == 0


def turn(end: End, *chunks: bytes) -> None:
    """Send chunks in a turn of their own, and read all of them."""
    gevent.sleep(0.001)
    for chunk in chunks:
        end.output.send(chunk)
    end.read(sum(map(len, chunks)))


def test_after_a_turn_with_several_chunks_the_first_one_is_joined_too(end):
    turn(end, b"one", b"two")
    gevent.sleep(0.001)
    end.output.send(b"three")
    end.output.send(b"four")
    assert end.output.queued == len(b"threefour")
    assert end.peer.recv(100) == b"threefour"


def test_after_a_turn_with_one_chunk_the_first_one_is_sent_at_once(end):
    turn(end, b"one", b"two")
    turn(end, b"three")
    gevent.sleep(0.001)
    end.output.send(b"four")
    assert end.output.queued == 0
    assert end.read(4) == b"four"


def test_what_is_added_before_a_block_follows_all_that_is_queued(end):
    blocks = []

    def add() -> None:
        blocks.append(end.output.queued)
        end.output.put(b"last")

    output = end.output = Output(nonblocking(end.sock), end.lost.append, add)
    output.put(b"one")
    output.put(b"two")
    assert end.peer.recv(100) == b"onetwolast"
    assert blocks == [6]
    assert output.queued == 0


def test_chunks_that_are_put_wait_for_the_end_of_the_turn(end):
    for chunk in (b"one", b"two"):
        end.output.put(chunk)
    assert end.output.queued == 6
    assert end.peer.recv(100) == b"onetwo"
    assert end.output.queued == 0


def test_flushing_sends_what_was_put_now(end):
    end.output.put(b"last words")
    end.output.flush()
    assert end.output.queued == 0
    end.output.close()
    assert end.read(10) == b"last words"


def test_what_the_socket_does_not_take_follows_in_order(end):
    rng = random.Random(3)
    chunks = [rng.randbytes(rng.choice((1, 300, 70_000))) for _ in range(300)]
    for number, chunk in enumerate(chunks):
        (end.output.put if number % 3 else end.output.send)(chunk)
        if number % 50 == 0:
            gevent.sleep(0)
    assert end.output.queued > 0
    assert end.read(sum(map(len, chunks))) == b"".join(chunks)
    eventually(lambda: end.output.queued == 0)
    end.output.send(b"again")
    assert end.read(5) == b"again"


def test_it_may_be_called_from_the_hub(end):
    """gevent forbids waiting in a callback of the loop."""
    done = []

    def run() -> None:
        for _ in range(100):
            end.output.send(b"x" * 50_000)
        end.output.flush()
        end.output.has_room(1, 1)
        done.append(True)

    gevent.get_hub().loop.run_callback(run)
    assert end.read(5_000_000) == b"x" * 5_000_000
    assert done


def test_room(end):
    assert end.output.has_room(1_000_000, 10)  # any size, while nothing is queued
    end.fill()
    size = 100_000 - end.output.queued
    assert end.output.has_room(size, 100_000)
    assert not end.output.has_room(size + 1, 100_000)


def test_a_queue_that_the_socket_takes_makes_room(end):
    for _ in range(20):
        end.output.put(b"x" * 600)
        assert end.output.has_room(600, 1000)
    assert end.read(12_000) == b"x" * 12_000


def test_dropping_leaves_the_block_that_was_begun(end):
    gevent.sleep(0.001)
    end.output.send(b"a" * 3_000_000)
    end.output.send(b"b" * 100)
    end.output.drop()
    end.output.send(b"c")
    assert end.read(3_000_001) == b"a" * 3_000_000 + b"c"


def test_progress(end):
    assert not end.output.progressed
    end.fill()
    assert end.output.progressed
    end.output.progressed = False
    gevent.sleep(0.01)
    assert not end.output.progressed
    end.peer.recv(1_000_000)
    eventually(lambda: end.output.progressed or end.peer.recv(1_000_000) is None)


def test_draining(end):
    end.output.drain()
    sent = end.fill()
    draining = gevent.spawn(end.output.drain)
    gevent.sleep(0.001)
    assert not draining.dead
    end.read(sent)
    draining.get(timeout=30)
    assert end.output.queued == 0


def test_closing_drops_everything_and_ends_draining(end):
    end.fill()
    draining = gevent.spawn(end.output.drain)
    gevent.sleep(0.001)
    end.output.close()
    end.output.close()
    draining.get(timeout=30)
    assert end.output.queued == 0
    assert not end.lost


def test_a_lost_connection_is_reported_once(end):
    end.fill()
    end.peer.close()
    error = eventually(lambda: end.lost)[0]
    assert isinstance(error, OSError)
    assert end.output.queued == 0
    for _ in range(3):
        end.output.send(b"x")
        gevent.sleep(0)
    assert end.lost == [error]
    assert end.output.queued == 0


def test_reading_without_blocking(end):
    sock = nonblocking(end.sock)
    with contextlib.suppress(BlockingIOError):
        sock.recv(20_000)  # the TLS session tickets
    with pytest.raises(BlockingIOError):
        sock.recv(20_000)
    end.peer.sendall(b"hello")
    received = []
    with gevent.Timeout(30):
        while not received:
            gevent.get_hub().wait(readable(end.sock))
            with contextlib.suppress(BlockingIOError):
                received.append(sock.recv(20_000))
    assert received == [b"hello"]


def test_closing_the_socket_wakes_its_reader(end):
    def wait() -> None:
        with pytest.raises(OSError, match="closed"):
            gevent.get_hub().wait(readable(end.sock))

    reader = gevent.spawn(wait)
    gevent.sleep(0.001)
    end.output.close()
    end.sock.close()
    reader.get(timeout=30)
