"""``juggler call`` with a real server, callee and Redis: results in parts, and Ctrl-C cancels the call."""

from __future__ import annotations

import json
import signal
import uuid

import pytest

from tests.integration import test_callee_command as callee_command
from tests.integration.commands import TIMEOUT, run, running, server_process
from tests.integration.scripted import CALL, Peer, serving
from tests.support import eventually

TASKS = """
import time

from callee import Callee, CallError, Cancelled, cancelled, progress
from msgspec import Raw

rpc = Callee()


def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")


@rpc.register("numbers")
def numbers(n):
    yield from range(n)
    return {"n": n}


@rpc.register("failing")
def failing():
    yield 1
    raise CallError("no more", code="empty")


@rpc.register("texts")
def texts():
    yield "\\x1b[2J"
    yield Raw(b'[1e400,\\n 2]')


@rpc.register("rows")
def rows(n):
    for row in range(n):
        progress(row)
        time.sleep(0.15)
    return "imported"


@rpc.register("echo", raw=True)
def echo(call):
    yield Raw(call.args)


@rpc.register("endless")
def endless(path):
    number = 0
    try:
        while True:
            number += 1
            yield number
            time.sleep(0.01)
    finally:
        note(path, "closed")


@rpc.register("silent")
def silent():
    yield "first"
    time.sleep(60)


@rpc.register("inform")
def inform(path):
    note(path, "started")
    while not cancelled():
        time.sleep(0.01)
    note(path, "cancelled")


@rpc.register("raise", cancel="raise")
def raise_(path):
    note(path, "started")
    try:
        time.sleep(60)
    except Cancelled:
        note(path, "cancelled")
        raise
"""


@pytest.fixture
def tasks(tmp_path, redis_url):
    (tmp_path / "tasks.py").write_text(TASKS)
    with callee_command.running("tasks:rpc", "--redis", redis_url, cwd=tmp_path) as process:
        assert process.said.startswith("serving"), process.stderr.read()
        yield process


@pytest.fixture
def url(redis_url, tasks):
    # A closed connection cancels nothing here: what is cancelled, the command has cancelled.
    with server_process(redis_url, "--cancel-on-close", "never") as url:
        yield url


@pytest.fixture
def notes(tmp_path):
    """A file for what a function has noted."""
    path = tmp_path / f"notes-{uuid.uuid4()}"
    path.touch()
    return path


def interrupt(process):
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, output, errors


def test_parts_are_printed_line_by_line_and_then_the_result(url):
    written = '{"a": 1e400, "a": 0.10}'
    for args, lines in (
        (["numbers", "3"], ["0", "1", "2", '{"n":3}']),
        (["numbers", "0"], ['{"n":0}']),
        (["numbers", "2000"], [*map(str, range(2000)), '{"n":2000}']),  # more than a window
        (["texts"], ['"\\u001b[2J"', "[1e400,  2]", "null"]),
        (["echo", written], [written, "null"]),
        (["rows", "3"], ["0", "1", "2", '"imported"']),
    ):
        done = run("call", "--stream", *args, JUGGLER_URL=url)
        assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, lines, ""), args
    assert run("call", "numbers", "3", JUGGLER_URL=url).stdout == "[0,1,2]\n"


@pytest.mark.leaves_keys("juggler:calls:*")
def test_errors_follow_the_parts_before_them(url):
    for args, code, output, error in (
        (["failing"], 1, "1\n", "juggler call: CallError: no more, code empty\n"),
        (["numbers", '"x"'], 1, "", "juggler call: Internal: internal error, call "),
        (["silent", "--timeout", "1"], 4, '"first"\n', "juggler call: no result of silent within 1 s\n"),
        (["nowhere", "--timeout", "0.1"], 4, "", "juggler call: no result of nowhere within 0.1 s\n"),
    ):
        done = run("call", "--stream", *args, JUGGLER_URL=url)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, output, 1), args
        assert done.stderr.startswith(error)


def test_each_part_is_flushed_and_ctrl_c_closes_the_generator(url, notes):
    with running("call", "--stream", "endless", json.dumps(str(notes)), JUGGLER_URL=url) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        code, _, errors = interrupt(process)
    assert (code, errors) == (130, "")
    eventually(lambda: notes.read_text() == "closed\n")


def test_a_closed_output_cancels_the_call(url, notes):
    with running("call", "--stream", "endless", json.dumps(str(notes)), JUGGLER_URL=url) as process:
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        assert process.wait(TIMEOUT) == 141
        assert process.stderr.read() == ""
    eventually(lambda: notes.read_text() == "closed\n")


@pytest.mark.parametrize("option", [[], ["--stream"]])
def test_ctrl_c_cancels_the_call(url, notes, option):
    for uri in ("inform", "raise"):
        notes.write_text("")
        with running("call", *option, uri, json.dumps(str(notes)), JUGGLER_URL=url) as process:
            eventually(lambda: notes.read_text() == "started\n")
            assert interrupt(process) == (130, "", "")
        eventually(lambda: notes.read_text() == "started\ncancelled\n")


def test_a_server_without_parts_is_refused():
    # The script fails, and with it the test, if the server receives a message.
    with serving(Peer.wait_closed) as old:
        done = run("call", "--stream", "numbers", "3", JUGGLER_URL=old)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "juggler call: parts: not supported by the server, which speaks only juggler.0\n"


def test_ctrl_c_with_an_older_server_is_quiet():
    called = []

    def script(peer: Peer) -> None:
        called.append(peer.acknowledge(CALL))
        peer.wait_closed()

    with serving(script) as old, running("call", "x", JUGGLER_URL=old) as process:
        eventually(lambda: called)
        assert interrupt(process) == (130, "", "")


def test_the_help_describes_it():
    text = " ".join(run("call", "--help").stdout.split())
    assert "--stream" in text
    assert "Ctrl-C cancels the call." in text
    assert "130 cancelled by Ctrl-C" in text
