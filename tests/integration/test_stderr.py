"""Standard error that is a pipe or a socket whose reader is stuck: nothing blocks, and what is dropped is counted."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from urllib.error import HTTPError

import gevent
import pytest
from gevent.os import make_nonblocking, nb_read

from juggler.client import Client
from juggler.process import logs, stderr
from tests.integration.commands import ROOT, TIMEOUT, environment, server_process
from tests.support import eventually

PIPE_SIZE = 4096


def full_pipe():
    """Return both ends of a pipe without room."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    os.write(writer, b"." * (PIPE_SIZE - 1) + b"\n")
    return reader, writer


def full_socket():
    ours, theirs = (each.detach() for each in socket.socketpair())
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b".\n")
    os.set_blocking(theirs, True)
    return ours, theirs


class Reader(gevent.Greenlet):
    """Reads a pipe to its end, once it is started."""

    def __init__(self, descriptor):
        super().__init__()
        self.descriptor = descriptor
        self.data = b""

    def _run(self):
        make_nonblocking(self.descriptor)
        with suppress(OSError):  # closed
            while block := nb_read(self.descriptor, 65536):
                self.data += block

    @property
    def lines(self):
        return [line for line in self.data.decode().splitlines() if line.strip(".")]


@pytest.fixture(params=["at once", "thread"])
def stuck(request, monkeypatch):
    """``sys.stderr``, unblocked, without room; and its reader, which has not started."""
    reader, writer = full_pipe()
    if request.param == "thread":
        monkeypatch.setattr("juggler.process.stderr.pipe_writer", lambda descriptor: lambda data: 0)
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        stderr.unblock()
        assert sys.stderr is not stream
        unblocked = sys.stderr
        stderr.unblock()
        assert sys.stderr is unblocked
        reading = Reader(reader)
        yield unblocked, reading
        assert eventually(lambda: not unblocked.buffer.is_draining)
        reading.kill()
    os.close(reader)


def test_lines_wait_for_the_reader_in_order(stuck):
    stream, reader = stuck
    for number in range(1000):
        print("line", number, file=stream)
    reader.start()
    assert eventually(lambda: len(reader.lines) == 1000)
    for number in range(1000, 1010):
        print("line", number, file=stream)
    assert eventually(lambda: len(reader.lines) == 1010)
    assert reader.lines == [f"line {number}" for number in range(1010)]


def test_beyond_the_bound_lines_are_dropped_and_counted(stuck, monkeypatch):
    monkeypatch.setattr(stderr, "MAX_QUEUED", 10_000)
    stream, reader = stuck
    total = 5000
    for number in range(total):
        print("line", number, file=stream)
    reader.start()
    said = re.compile(r"juggler: (\d+) lines of the log dropped")
    assert eventually(lambda: said.search("\n".join(reader.lines)))
    print("afterwards", file=stream)
    assert eventually(lambda: "afterwards" in reader.lines)
    *kept, notice, last = reader.lines
    assert kept == [f"line {number}" for number in range(len(kept))]
    assert 500 < len(kept) < 2500
    assert (int(said.search(notice)[1]), last) == (total - len(kept), "afterwards")


def test_a_reader_that_has_gone_stops_nothing(stuck):
    stream, reader = stuck
    for _ in range(2):
        for number in range(1000):
            print("line", number, file=stream)
        with suppress(OSError):
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, reader.descriptor)
            os.close(nothing)
    assert eventually(lambda: not stream.buffer.is_draining)


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_line_about_dropped_ones_has_the_format_of_the_log(stuck, format, monkeypatch):
    monkeypatch.setattr(stderr, "MAX_QUEUED", 1000)
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    stream, reader = stuck
    monkeypatch.setattr(sys, "stderr", stream)  # pytest has set its own, after the fixture
    logs.configure(format=format)
    for number in range(1000):
        print("line", number, file=stream)
    reader.start()
    assert eventually(lambda: "lines dropped" in "".join(reader.lines[-1:]))
    if format == "json":
        fields = json.loads(reader.lines[-1])
        assert (fields["event"], fields["level"]) == ("log: lines dropped, their reader is too slow", "warning")
        assert 800 < fields["lines"] < 1000
    else:
        assert re.search(r"\[warning\] log: lines dropped, .* lines=[89]\d\d$", reader.lines[-1])


@pytest.mark.parametrize("kind", ["file", "terminal", "none"])
def test_others_stay_as_they_are(kind, tmp_path, monkeypatch):
    if kind == "none":
        stream = io.StringIO()
    else:
        descriptor = os.openpty()[1] if kind == "terminal" else os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
        stream = open(descriptor, "w")  # noqa: SIM115
    with stream:
        monkeypatch.setattr(sys, "stderr", stream)
        stderr.unblock()
        assert sys.stderr is stream


CODE = """
import sys, os
from juggler.process import stderr
stderr.unblock()
for number in range({count}):
    print("line", number, file=sys.stderr)
print("written", flush=True)
"""


def spawn(code, descriptor, *args, **variables):
    return subprocess.Popen(
        [sys.executable, *args, *(["-c", code] if code else [])],
        env=environment(**variables),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=descriptor,
        text=True,
    )


@pytest.mark.parametrize("make", [full_pipe, full_socket])
@pytest.mark.parametrize("is_read", [True, False])
def test_at_exit_everything_is_written_if_it_is_read(is_read, make):
    reader, writer = make()
    with spawn(CODE.format(count=20_000), writer) as process:
        os.close(writer)
        assert process.stdout.readline() == "written\n"
        reading = Reader(reader)
        if is_read:
            reading.start()
        assert process.wait(TIMEOUT) == 0
    if is_read:
        reading.join(TIMEOUT)
        assert reading.lines == [f"line {number}" for number in range(20_000)]
    os.close(reader)


def test_a_fork_leaves_the_queue_to_its_parent():
    reader, writer = full_pipe()
    code = CODE.format(count=1000) + "pid = os.fork()\nprint('end', bool(pid), file=sys.stderr)\npid and os.wait()\n"
    with spawn(code, writer) as process:
        os.close(writer)
        assert process.stdout.readline() == "written\n"
        reading = Reader(reader)
        reading.start()
        assert process.wait(TIMEOUT) == 0
    reading.join(TIMEOUT)
    assert sorted(reading.lines) == sorted([*(f"line {number}" for number in range(1000)), "end False", "end True"])
    os.close(reader)


# Commands


@contextmanager
def stuck_command(make, *args, **variables):
    """A command whose standard error has no room, once it serves; yields its first line and the reader's end."""
    reader, writer = make()
    process = spawn("", writer, *args, **variables)
    os.close(writer)
    with process:
        try:
            line = process.stdout.readline()
            assert line
            yield line, reader, process
        finally:
            process.kill()
            os.close(reader)


@pytest.mark.parametrize("make", [full_pipe, full_socket])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_serves(redis_url, make, workers):
    options = (
        "--bind",
        "127.0.0.1:0",
        "--redis",
        redis_url,
        "--log-messages",
        "--log-connections",
        "--workers",
        workers,
    )
    with stuck_command(make, "-m", "juggler.cli.main", "server", *options) as (line, reader, process):
        with Client(re.search(r"ws://\S+/ws", line)[0]) as client, client.subscribe("c") as events:
            for number in range(3000):
                client.publish("c", number)
            assert [events.get(timeout=20).args for _ in range(1000)]
            reading = Reader(reader)
            reading.start()
            assert eventually(lambda: "lines dropped" in "\n".join(reading.lines) or len(reading.lines) > 3000)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        reading.join(TIMEOUT)
        assert reading.dead


CALLEE = """
import logging, sys
from callee import Callee
rpc = Callee()

@rpc.register("test.log")
def log(number):
    logging.getLogger("mine").warning("called with %s", number)
    print("printed", file=sys.stderr)
    return number
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_callee_serves(redis_url, tmp_path, processes):
    (tmp_path / "stuck.py").write_text(CALLEE)
    options = ("--redis", redis_url, "--processes", processes)
    with (
        server_process(redis_url) as url,
        stuck_command(full_pipe, "-m", "callee.cli", "stuck:rpc", *options, PYTHONPATH=str(tmp_path)) as (
            _,
            _,
            process,
        ),
        Client(url) as client,
    ):
        assert [client.call("test.log", number) for number in range(500)] == list(range(500))
        process.terminate()
        assert process.wait(TIMEOUT) == 0


def test_an_api_serves(monkeypatch):
    monkeypatch.setenv("JUGGLER_API_KEY", "a key of more than 16 characters".replace(" ", "-"))
    options = ("--bind", "127.0.0.1:0", "--redis", "redis://127.0.0.1:1")
    with stuck_command(full_pipe, "-m", "juggler.cli.main", "api", *options) as (line, _, process):
        headers = {"Authorization": f"Bearer {os.environ['JUGGLER_API_KEY']}", "Content-Type": "application/json"}
        url = re.search(r"http://\S+", line)[0] + "publish"
        began = time.monotonic()
        for _ in range(50):
            request = urllib.request.Request(url, b'{"channel":"c","args":1}', headers)
            with pytest.raises(HTTPError, match="503"):
                urllib.request.urlopen(request, timeout=10)
        assert time.monotonic() - began < 60
        process.terminate()
        assert process.wait(TIMEOUT) == 0
