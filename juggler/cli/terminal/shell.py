"""The loop of the terminal: read a line, run it, show errors."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

from juggler.cli.printing import describe
from juggler.cli.terminal import lines
from juggler.cli.terminal.actions import Actions
from juggler.cli.terminal.client_connection import Shared
from juggler.cli.terminal.connections import Connections
from juggler.cli.terminal.grammar import InputError, parse
from juggler.cli.terminal.history import History
from juggler.cli.terminal.screen import Screen
from juggler.errors import JugglerError


class Shell:
    """An interactive client.

    Args:
        url: to connect to first; the default of the command ``connect``.
        headers: HTTP headers for each websocket handshake.
        timeout: timeout of calls in seconds.
        history: of typed lines.
        is_verbose: whether to show tracebacks.
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
        """Connect, then read and run lines until ``quit`` or Ctrl-D."""
        self._screen.show(lines.note("help lists the commands, Tab completes, Ctrl-D quits"))
        self._run("connect")
        while not self._actions.has_quit:
            try:
                text = self._screen.read(self._prompt)
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            self._run(text)
        self._connections.close()

    def _run(self, text: str) -> None:
        try:
            line = parse(text)
            if line is not None:
                self._actions.run(line)
        except KeyboardInterrupt:
            self._screen.show(lines.note("interrupted"))
        except (JugglerError, InputError) as error:
            self._show_error(describe(error))
        except Exception as error:
            # An internal error: the user keeps connections and history.
            self._show_error(f"{type(error).__name__}: {error}")

    def _show_error(self, why: str) -> None:
        if self._is_verbose:
            for each in traceback.format_exc().splitlines():
                self._screen.show(lines.note(each))
        self._screen.show(lines.error(why))

    def _prompt(self) -> lines.StyledLine:
        current = self._connections.find_current()
        if current is None:
            return [("number", "> ")]
        lost = "" if current.client.connected else " (lost)"
        return [("number", f"[{current.number}] {current.name}{lost}> ")]
