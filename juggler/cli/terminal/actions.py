"""Run the commands of the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from juggler.cli.jsontext import read_json
from juggler.cli.terminal import lines
from juggler.cli.terminal.client_connection import Shared
from juggler.cli.terminal.connections import Connections
from juggler.cli.terminal.grammar import COMMANDS, Command, InputError, ParsedLine
from juggler.protocol.messages import NULL

_WIDTH = max(len(command.usage) for command in COMMANDS.values())


class Actions:
    """The action of each command.

    Attributes:
        has_quit: whether the command ``quit`` was run.
        by_command: the function of each command; it takes the command's parameters.
    """

    def __init__(self, connections: Connections, shared: Shared) -> None:
        self.has_quit = False
        self._connections = connections
        self._shared = shared
        self.by_command: dict[str, Callable[..., object]] = {
            "call": self._call,
            "pub": self._pub,
            "sub": lambda channel: self._sub(channel, False),
            "psub": lambda pattern: self._sub(pattern, True),
            "unsb": lambda channel: self._connections.current.unsubscribe(channel, False),
            "punsb": lambda pattern: self._connections.current.unsubscribe(pattern, True),
            "send": lambda text: self._connections.current.send(text),
            "rand": lambda size: self._connections.current.send(os.urandom(size)),
            "connect": self._connections.connect,
            "use": self._use,
            "list": self._list,
            "disconnect": lambda number: self._connections.find(number).close(),
            "close": lambda code, reason: self._connections.current.close(code or 1000, reason or ""),
            "raw": self._raw,
            "timeout": self._timeout,
            "help": self._help,
            "quit": self._quit,
        }

    def run(self, line: ParsedLine) -> None:
        """Run a command and wait until it completes; a call, until it is sent.

        Raises:
            InputError: the command is impossible now, or its JSON is invalid.
            JugglerError: the command failed.
        """
        self.by_command[line.command](*line.values)

    def _call(self, uri: str, args: str | None) -> None:
        text = _json(args)
        self._connections.current.call(uri, text)
        self._shared.uris.add(uri)

    def _pub(self, channel: str, args: str | None) -> None:
        text = _json(args)
        self._connections.current.publish(channel, text)
        self._shared.channels.add(channel)

    def _sub(self, channel: str, pattern: bool) -> None:
        self._connections.current.subscribe(channel, pattern)
        (self._shared.patterns if pattern else self._shared.channels).add(channel)

    def _use(self, number: int) -> None:
        connection = self._connections.use(number)
        self._note(f"[{number}] {connection.url} is the current connection")

    def _list(self) -> None:
        current = self._connections.find_current()
        for each in self._connections.all():
            state = "" if each.client.connected else "  (lost, reconnecting)"
            self._note(f"{'*' if each is current else ' '} [{each.number}] {each.url}{state}")
            for channel, pattern in sorted(each.subscriptions):
                self._note(f"      {'psub' if pattern else 'sub '} {channel}")
        if current is None:
            self._note("no connection")

    def _raw(self, is_raw: bool) -> None:
        self._shared.is_raw = is_raw

    def _timeout(self, seconds: float | None) -> None:
        if seconds is not None:
            self._shared.timeout = seconds
        self._note(f"call timeout: {self._shared.timeout:g} s")

    def _help(self, command: Command | None) -> None:
        for each in COMMANDS.values() if command is None else [command]:
            self._note(f"{each.usage:{_WIDTH}}  {each.help}")
        if command is None:
            self._note("JSON defaults to null and may be @FILE. Write a name with spaces as a JSON string.")

    def _quit(self) -> None:
        self.has_quit = True

    def _note(self, text: str) -> None:
        self._shared.show(lines.note(text))


def _json(args: Any) -> bytes:
    if args is None:
        return NULL
    try:
        return read_json(args, from_stdin=False)
    except ValueError as error:
        raise InputError(str(error)) from None
