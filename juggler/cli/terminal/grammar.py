"""The commands of the terminal and the parser of lines. PURE. To add a command, begin with a row of the table."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from juggler.protocol.codec import MAX_TIMEOUT

MAX_BYTES = 16 * 2**20
MAX_REASON_BYTES = 123  # RFC 6455 §5.5.1
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})  # RFC 6455 §7.4


class InputError(ValueError):
    """A typed line is invalid, or impossible now."""


class Kind(Enum):
    """The kind of a parameter decides how it is parsed and completed."""

    CHANNEL = auto()
    CLOSE_CODE = auto()
    COMMAND = auto()
    CONNECTION = auto()
    JSON = auto()
    ON_OFF = auto()
    PATTERN = auto()
    REASON = auto()
    SECONDS = auto()
    SIZE = auto()
    SUBSCRIBED = auto()
    SUBSCRIBED_PATTERN = auto()
    TEXT = auto()
    URI = auto()
    URL = auto()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a command."""

    name: str
    kind: Kind
    is_required: bool = True

    @property
    def takes_rest(self) -> bool:
        """Whether it extends to the end of the line, spaces included."""
        return self.kind in (Kind.JSON, Kind.TEXT, Kind.REASON)

    def __str__(self) -> str:
        return self.name if self.is_required else f"[{self.name}]"


@dataclass(frozen=True)
class Command:
    """A command: name, parameters and one line of help."""

    name: str
    parameters: tuple[Parameter, ...]
    help: str

    @property
    def usage(self) -> str:
        return " ".join([self.name, *map(str, self.parameters)])


def _maybe(name: str, kind: Kind) -> Parameter:
    return Parameter(name, kind, is_required=False)


_URI = Parameter("URI", Kind.URI)
_CHANNEL = Parameter("CHANNEL", Kind.CHANNEL)
_JSON = _maybe("JSON", Kind.JSON)
_NUMBER = Parameter("NUMBER", Kind.CONNECTION)

_TABLE = (
    Command("call", (_URI, _JSON), "call a function; the result appears when it arrives"),
    Command("pub", (_CHANNEL, _JSON), "publish an event"),
    Command("sub", (_CHANNEL,), "subscribe to a channel"),
    Command("psub", (Parameter("PATTERN", Kind.PATTERN),), "subscribe to all channels that match a glob, e.g. news.*"),
    Command("unsb", (Parameter("CHANNEL", Kind.SUBSCRIBED),), "unsubscribe from a channel"),
    Command("punsb", (Parameter("PATTERN", Kind.SUBSCRIBED_PATTERN),), "unsubscribe from a glob"),
    Command("send", (Parameter("TEXT", Kind.TEXT),), "send a text message unchanged, JSON or not"),
    Command("rand", (Parameter("N", Kind.SIZE),), "send N random bytes as a binary message"),
    Command("connect", (_maybe("URL", Kind.URL),), "open another connection and make it current"),
    Command("use", (_NUMBER,), "make another connection current"),
    Command("list", (), "list the connections and their subscriptions"),
    Command("disconnect", (_maybe("NUMBER", Kind.CONNECTION),), "close a connection, by default the current one"),
    Command(
        "close",
        (_maybe("CODE", Kind.CLOSE_CODE), _maybe("REASON", Kind.REASON)),
        "close the current connection with a close code (default 1000) and a reason",
    ),
    Command("raw", (Parameter("on|off", Kind.ON_OFF),), "show every message as sent and received"),
    Command("timeout", (_maybe("SECONDS", Kind.SECONDS),), "set or show the timeout of calls"),
    Command("help", (_maybe("COMMAND", Kind.COMMAND),), "list the commands"),
    Command("quit", (), "quit, like Ctrl-D"),
)
COMMANDS = {command.name: command for command in _TABLE}


@dataclass(frozen=True)
class ParsedLine:
    """A parsed line.

    Attributes:
        command: name of the command.
        values: one per parameter of the command; None for absent ones.
    """

    command: str
    values: tuple[Any, ...] = ()


def parse(text: str) -> ParsedLine | None:
    """Parse a line; return None for a blank one. JSON is not parsed: it may be in a file.

    Raises:
        InputError: the command is unknown, or an argument is invalid.
    """
    name, rest = split_word(text)
    if not name:
        return None
    command = COMMANDS.get(name)
    if command is None:
        raise InputError(_unknown(name))
    values = []
    for parameter in command.parameters:
        value, rest = (rest.strip(), "") if parameter.takes_rest else split_word(rest)
        if not value and parameter.is_required:
            raise InputError(f"missing {parameter.name}; usage: {command.usage}")
        values.append(_READERS[parameter.kind](value) if value else None)
    if rest.strip():
        raise InputError(f"unexpected {_short(rest.strip())}; usage: {command.usage}")
    return ParsedLine(name, tuple(values))


def split_word(text: str) -> tuple[str, str]:
    """Return the first word and the rest. A word with spaces is a JSON string.

    Raises:
        InputError: the string is unterminated.
    """
    text = text.lstrip()
    if not text.startswith('"'):
        word, *rest = text.split(maxsplit=1)[:2] or [""]
        return word, rest[0] if rest else ""
    try:
        word, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        raise InputError(f"invalid or unterminated JSON string: {_short(text)}") from None
    if text[end : end + 1].strip():
        raise InputError(f"expected a space after the JSON string: {_short(text)}")
    return word, text[end:].lstrip()


def quoted(name: str) -> str:
    """Return a name as `split_word` parses it."""
    is_plain = name and name.isprintable() and not name.startswith('"') and " " not in name
    return name if is_plain else json.dumps(name)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"unknown command: {_short(name)}; " + (f"did you mean {near[0]}?" if near else "type help for a list")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _number(text: str, what: str, is_good: Callable[[int], bool]) -> int:
    # int() accepts digits of all scripts, and underscores.
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and is_good(int(text))):
        raise InputError(f"expected {what}, got {_short(text)}")
    return int(text)


def _connection(text: str) -> int:
    return _number(text, "the number of a connection (see list)", lambda _: True)


def _size(text: str) -> int:
    return _number(text, f"a number of bytes from 0 to {MAX_BYTES}", lambda n: n <= MAX_BYTES)


def _close_code(text: str) -> int:
    return _number(text, "a close code of 1000 to 1003, 1007 to 1014 or 3000 to 4999", _CLOSE_CODES.__contains__)


def _reason(text: str) -> str:
    if len(text.encode(errors="replace")) > MAX_REASON_BYTES:
        raise InputError(f"expected a reason of at most {MAX_REASON_BYTES} bytes in UTF-8, got {len(text.encode())}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise InputError(f"expected seconds greater than 0 and at most {MAX_TIMEOUT:.0f}, got {_short(text)}")
    return seconds


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise InputError(f"expected on or off, got {_short(text)}")
    return text == "on"


def _command(text: str) -> Command:
    if text not in COMMANDS:
        raise InputError(_unknown(text))
    return COMMANDS[text]


def _unchanged(text: str) -> str:
    return text


_READERS: dict[Kind, Callable[[str], Any]] = {
    **dict.fromkeys(Kind, _unchanged),
    Kind.CLOSE_CODE: _close_code,
    Kind.COMMAND: _command,
    Kind.CONNECTION: _connection,
    Kind.ON_OFF: _on_off,
    Kind.REASON: _reason,
    Kind.SECONDS: _seconds,
    Kind.SIZE: _size,
}
