"""Reads lines and does what they say, until there are no more. No error ends it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

from juggler.cli.printing import describe
from juggler.cli.terminal import lines
from juggler.cli.terminal.actions import Actions
from juggler.cli.terminal.client_connection import Shared
from juggler.cli.terminal.connections import Connections
from juggler.cli.terminal.grammar import Mistake, parse
from juggler.cli.terminal.history import History
from juggler.cli.terminal.screen import Screen
from juggler.errors import JugglerError


class Shell:
    """An interactive client.

    Args:
        url: to connect to first, and where ``connect`` goes without one.
        headers: for each upgrade.
        timeout: seconds for which the result of a call is wanted.
        history: of what was typed.
        is_verbose: whether tracebacks of errors are shown.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], timeout: float, history: History, is_verbose: bool = False
    ) -> None:
        self._is_verbose = is_verbose
        self._screen = Screen(history, lambda: self._connections.names())
        shared = Shared(self._screen.show, headers, timeout)
        self._connections = Connections(shared, url)
        self._actions = Actions(self._connections, shared)

    def run(self) -> None:
        """Connect, and run until the end is wanted."""
        self._screen.show(lines.note("help lists the commands, Tab completes, Ctrl-D ends"))
        self._do("connect")
        while not self._actions.has_quit:
            try:
                text = self._screen.read(self._prompt)
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            self._do(text)
        self._connections.close()

    def _do(self, text: str) -> None:
        try:
            line = parse(text)
            if line is not None:
                self._actions.do(line)
        except KeyboardInterrupt:
            self._screen.show(lines.note("given up"))
        except (JugglerError, Mistake) as error:
            self._complain(describe(error))
        except Exception as error:
            # A fault of ours, or of a library: connections and what is known are worth more than an end.
            self._complain(f"{type(error).__name__}: {error}")

    def _complain(self, why: str) -> None:
        if self._is_verbose:
            for each in traceback.format_exc().splitlines():
                self._screen.show(lines.note(each))
        self._screen.show(lines.error(why))

    def _prompt(self) -> lines.Line:
        current = self._connections.find_current()
        if current is None:
            return [("number", "> ")]
        lost = "" if current.client.connected else " (lost)"
        return [("number", f"[{current.number}] {current.name}{lost}> ")]
