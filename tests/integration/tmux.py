"""A program in a real terminal: type into a private tmux, and read what it shows."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.commands import environment
from tests.operations import needs
from tests.support import eventually

PATIENCE = 15.0
"""Seconds to wait for what is to be shown."""


class Terminal:
    """A terminal of 160 columns in which ``juggler client`` runs."""

    def __init__(self, socket: Path) -> None:
        self._tmux = [needs("tmux"), "-u", "-S", str(socket), "-f", "/dev/null"]

    def start(self, *args: str, **variables: str) -> None:
        command = shlex.join([sys.executable, "-m", "juggler.cli.main", "client", *args])
        # The output stays readable after the client exits. A Ctrl-C for the client reaches the shell, too.
        script = f"trap : INT; {command}; echo ended with $?; exec sleep 1000"
        self._do("new-session", "-d", "-x", "160", "-y", "50", "/bin/sh", "-c", script, env=environment(**variables))

    def stop(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    def _do(self, *args: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run([*self._tmux, *args], check=True, capture_output=True, env=env, encoding="utf-8")
        return done.stdout

    def lines(self, *options: str) -> list[str]:
        """What is shown, and was; without empty lines at the end. Lines that were folded are whole again."""
        text = self._do("capture-pane", "-p", "-J", "-S", "-", *options)
        return [line.rstrip() for line in text.rstrip().splitlines()]

    def wait_for(self, *texts: str) -> str:
        """Wait until a line has all of these texts, and return it."""

        def find():
            shown = self.lines()
            found = [line for line in shown if all(text in line for text in texts)]
            assert found, f"no line with {texts} in {shown}"
            return found[-1]

        return eventually(find, PATIENCE)

    def wait_for_last(self, line: str) -> None:
        """Wait until the last line is this one."""

        def look():
            shown = self.lines()
            assert shown, "nothing is shown"
            assert shown[-1] == line, shown
            return True

        eventually(look, PATIENCE)

    def wait_for_prompt(self) -> str:
        """Wait until a line can be typed, and return what stands before it."""

        def prompt():
            shown = self.lines()
            return shown and shown[-1].endswith(">") and shown[-1]

        return eventually(prompt, PATIENCE, "no prompt")

    def write(self, text: str) -> None:
        """Type more of a line."""
        self._do("send-keys", "-l", text)

    def keys(self, *names: str) -> None:
        """Press keys: Enter, Tab, C-c."""
        self._do("send-keys", *names)

    def type(self, text: str) -> None:
        """Type what follows a prompt, and wait until it stands there."""
        prompt = self.wait_for_prompt()
        self.write(text)
        self.wait_for_last(f"{prompt} {text}".rstrip())

    def enter(self, text: str) -> None:
        """Type a line and end it."""
        self.type(text)
        self.keys("Enter")


@contextmanager
def terminal(*args: str, **variables: str) -> Iterator[Terminal]:
    """Run ``juggler client`` in a terminal; its history is in a directory of its own unless that is given."""
    with tempfile.TemporaryDirectory(prefix="juggler-") as directory:
        shown = Terminal(Path(directory) / "tmux")
        try:
            shown.start(*args, **{"XDG_STATE_HOME": directory, **variables})
            yield shown
        finally:
            shown.stop()
