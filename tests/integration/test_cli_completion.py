"""Tab completes commands, options and URIs in a real bash."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from juggler.client import Client
from juggler.process.embedded import free_port
from tests.integration.commands import callee_process, environment, run_python, server_process
from tests.operations import needs
from tests.support import eventually

PATIENCE = 10.0
PAGE = (Path(__file__).parents[2] / "docs" / "clients" / "terminal.md").read_text()
LISTS = ("--list-uri", "juggler.uris")
CLEAR = "\x15"  # Ctrl-U
BELL = "\a"


class Bash:
    """An interactive bash with the completion of the documentation."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.text = ""

    def type(self, keys: str) -> None:
        self.text = ""
        os.write(self._terminal, keys.encode())

    def shows(self, pattern: str) -> bool:
        """Wait until the terminal shows a text since the last keys. Return False if it does not within `PATIENCE`."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text):
            left = deadline - time.monotonic()
            if left < 0:
                return False
            if select.select([self._terminal], [], [], left)[0]:
                self.text += os.read(self._terminal, 4096).decode(errors="replace").replace(BELL, "")
        return True

    def completes(self, typed: str, pattern: str) -> bool:
        self.type(f"{CLEAR}{typed}\t")
        assert self.shows(pattern), self.text
        return True


@contextmanager
def bash(**variables: str) -> Iterator[Bash]:
    ours, theirs = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [needs("bash"), "--noprofile", "--norc", "-i"],
        env=environment(PATH=path, PS1="ready> ", TERM="dumb", **variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        shell = Bash(ours)
        (line,) = re.findall(r'^eval .*bash_source juggler\)"$', PAGE, re.MULTILINE)
        shell.type(f"bind 'set enable-bracketed-paste off'; {line}; complete -p juggler\n")
        assert shell.shows("complete -o nosort -F _juggler_completion juggler\r\n"), shell.text
        yield shell
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def is_listed(url: str) -> bool:
    with Client(url) as client:
        return any(each["uri"] == "test.reverse" for each in client.call("juggler.uris", timeout=5))


def test_tab_completes(redis_url):
    with server_process(redis_url, *LISTS) as url, callee_process(redis_url):
        assert eventually(lambda: is_listed(url))
        with bash(JUGGLER_URL=url, REDIS_URL=redis_url) as shell:
            for typed, expected in (
                ("juggler conn", "juggler connections "),
                ("juggler call --str", "juggler call --stream "),
                ("juggler call te", r"juggler call test\."),
                ("juggler call test.r", "juggler call test.reverse "),
                ("juggler uris test.d", "juggler uris test.delay "),
            ):
                # Again on a busy machine, where a server may take longer than the completion waits.
                assert eventually(lambda: shell.completes(typed, expected), PATIENCE * 3)  # noqa: B023


def completed(line: str, **variables: str) -> list[str]:
    """Return what click's protocol offers for the last word of a line; nothing else may be printed."""
    words = line.split(" ")
    done = run_python(
        *("-c", "import sys; sys.argv[0] = 'juggler'; from juggler.cli.entry import juggler; juggler()"),
        **{"_JUGGLER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)} | variables,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_uris_come_from_redis_if_the_server_lists_none(redis_url):
    with server_process(redis_url) as url, callee_process(redis_url):
        assert eventually(lambda: completed("juggler uris t", REDIS_URL=redis_url))
        assert completed("juggler call test.e", JUGGLER_URL=url) == []
        found = ["plain,test.echo"]
        assert eventually(lambda: completed("juggler call test.e", JUGGLER_URL=url, REDIS_URL=redis_url) == found)
        assert eventually(lambda: completed(f"juggler uris --redis {redis_url} test.e") == found)


@pytest.mark.parametrize("line", ["juggler call te", "juggler uris te", "juggler call --timeout x te"])
def test_failures_are_silent(line):
    nowhere = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    assert completed(line, JUGGLER_URL=f"ws://{nowhere}/ws", REDIS_URL=f"redis://{nowhere}") == []
    assert completed(line, JUGGLER_URL="nonsense", REDIS_URL="nonsense") == []
    assert time.monotonic() - began < 3 * PATIENCE


def test_a_server_that_does_not_answer_is_given_up():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        assert completed("juggler call te", JUGGLER_URL=f"ws://127.0.0.1:{mute.getsockname()[1]}/ws") == []
        assert time.monotonic() - began < 3 * PATIENCE
