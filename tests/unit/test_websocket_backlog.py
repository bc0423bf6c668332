"""Which websockets a backlog closes."""

from __future__ import annotations

import gc

from juggler.errors import CloseCode
from juggler.server.websocket import Backlog


class Peer:
    """A websocket as a backlog sees it. ``rest`` bytes stay when its queue is dropped."""

    def __init__(self, rest=0):
        self.queued_bytes = 0
        self.close_code = None
        self.rest = rest
        self.is_aborted = False

    def fall_behind(self, reason):
        self.queued_bytes = min(self.rest, self.queued_bytes)
        self.close_code = self.close_code or CloseCode.PEER_TOO_SLOW

    def abort(self):
        self.queued_bytes = 0
        self.is_aborted = True


def send(backlog, peer, size):
    if peer.close_code is None:
        peer.queued_bytes += size
        backlog.add(peer, size)


def closed(peers):
    return [peer.close_code for peer in peers]


def test_the_largest_queues_are_closed_until_there_is_room():
    backlog = Backlog(1000)
    peers = [Peer() for _ in range(4)]
    for peer, size in zip(peers, (100, 400, 300, 200), strict=True):
        send(backlog, peer, size)
    assert closed(peers) == [None] * 4
    send(backlog, peers[0], 1)
    assert closed(peers) == [None, 4429, None, None]
    assert sum(peer.queued_bytes for peer in peers) == 601


def test_what_was_sent_does_not_count():
    backlog = Backlog(1000)
    reader, other = Peer(), Peer()
    for _ in range(100):
        send(backlog, reader, 300)
        reader.queued_bytes = 0
    send(backlog, other, 900)
    assert closed([reader, other]) == [None, None]


def test_shared_texts_do_not_count():
    backlog = Backlog(1000)
    peer = Peer()
    peer.queued_bytes = 5000
    send(backlog, peer, 999)
    assert peer.close_code is None


def test_one_queue_over_the_limit_is_closed():
    backlog = Backlog(1000)
    peer = Peer()
    send(backlog, peer, 1001)
    assert peer.close_code == 4429


def test_closed_connections_that_hold_memory_are_aborted_first():
    backlog = Backlog(1000)
    stuck, small, large = Peer(rest=700), Peer(), Peer()
    send(backlog, stuck, 700)
    send(backlog, small, 301)
    assert (stuck.close_code, stuck.is_aborted, small.close_code) == (4429, False, None)
    send(backlog, large, 400)
    assert (stuck.is_aborted, small.close_code, large.close_code) == (True, None, None)


def test_many_single_messages_do_not_close_all():
    backlog = Backlog(1000)
    peers = [Peer(rest=100) for _ in range(30)]
    for peer in peers:
        send(backlog, peer, 100)
        assert sum(peer.queued_bytes for peer in peers) <= 1100
    assert closed(peers).count(None) >= 9


def test_connections_that_close_for_another_reason_are_not_aborted():
    backlog = Backlog(1000)
    going, other = Peer(), Peer()
    send(backlog, going, 600)
    going.close_code = 1001
    send(backlog, other, 500)
    assert (going.queued_bytes, going.is_aborted, other.close_code) == (0, False, None)


def test_it_can_be_unlimited():
    backlog = Backlog(None)
    peer = Peer()
    send(backlog, peer, 10**12)
    assert peer.close_code is None


def test_it_keeps_no_closed_connection():
    backlog = Backlog(1000)
    send(backlog, Peer(), 10)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Peer)]
