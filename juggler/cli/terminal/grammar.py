"""The commands that can be typed, and how a line is read. PURE: a new command begins with a row of the table here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from juggler.protocol.codec import MAX_TIMEOUT

MOST_BYTES = 16 * 2**20
MOST_REASON_BYTES = 123  # RFC 6455 §5.5.1
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})  # RFC 6455 §7.4


class Mistake(ValueError):
    """What was typed cannot be done. Its text says what was expected."""


class Kind(Enum):
    """What a parameter is: how it is read, and what completes it."""

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
    """A parameter of a command, as its help shows it."""

    name: str
    kind: Kind
    is_required: bool = True

    @property
    def takes_rest(self) -> bool:
        """Whether it is all that follows, spaces included."""
        return self.kind in (Kind.JSON, Kind.TEXT, Kind.REASON)

    def __str__(self) -> str:
        return self.name if self.is_required else f"[{self.name}]"


@dataclass(frozen=True)
class Command:
    """A command: its name, what it takes, and one line of help."""

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
    Command("call", (_URI, _JSON), "call a function; the result is shown when it comes"),
    Command("pub", (_CHANNEL, _JSON), "publish an event"),
    Command("sub", (_CHANNEL,), "subscribe to a channel"),
    Command("psub", (Parameter("PATTERN", Kind.PATTERN),), "subscribe to all channels that match a glob: news.*"),
    Command("unsb", (Parameter("CHANNEL", Kind.SUBSCRIBED),), "unsubscribe from a channel"),
    Command("punsb", (Parameter("PATTERN", Kind.SUBSCRIBED_PATTERN),), "unsubscribe from a glob"),
    Command("send", (Parameter("TEXT", Kind.TEXT),), "send a text message as it is, JSON or not"),
    Command("rand", (Parameter("N", Kind.SIZE),), "send N random bytes as a binary message"),
    Command("connect", (_maybe("URL", Kind.URL),), "make one more connection, the current one from then on"),
    Command("use", (_NUMBER,), "make another connection the current one"),
    Command("list", (), "list the connections and their subscriptions"),
    Command("disconnect", (_maybe("NUMBER", Kind.CONNECTION),), "end a connection, the current one unless named"),
    Command(
        "close",
        (_maybe("CODE", Kind.CLOSE_CODE), _maybe("REASON", Kind.REASON)),
        "end the current connection with a close code (1000) and a reason",
    ),
    Command("raw", (Parameter("on|off", Kind.ON_OFF),), "show every message as it travels, both ways"),
    Command("timeout", (_maybe("SECONDS", Kind.SECONDS),), "how long results are waited for, from the next call on"),
    Command("help", (_maybe("COMMAND", Kind.COMMAND),), "show this"),
    Command("quit", (), "end; so does Ctrl-D"),
)
COMMANDS = {command.name: command for command in _TABLE}


@dataclass(frozen=True)
class Line:
    """A line that was read.

    Attributes:
        command: its name.
        values: one for each parameter of the command; ``None`` for those that are absent.
    """

    command: str
    values: tuple[Any, ...] = ()


def parse(text: str) -> Line | None:
    """Read a line; ``None`` when there is nothing in it. JSON is not looked at: it may be in a file.

    Raises:
        Mistake: it is no command, or something about its arguments is wrong.
    """
    name, rest = split_word(text)
    if not name:
        return None
    command = COMMANDS.get(name)
    if command is None:
        raise Mistake(_unknown(name))
    values = []
    for parameter in command.parameters:
        value, rest = (rest.strip(), "") if parameter.takes_rest else split_word(rest)
        if not value and parameter.is_required:
            raise Mistake(f"{parameter.name} is missing: {command.usage}")
        values.append(_READERS[parameter.kind](value) if value else None)
    if rest.strip():
        raise Mistake(f"{_short(rest.strip())} is too much: {command.usage}")
    return Line(name, tuple(values))


def split_word(text: str) -> tuple[str, str]:
    """Return the first word and what follows. A word with spaces is written as a JSON string.

    Raises:
        Mistake: such a string does not end.
    """
    text = text.lstrip()
    if not text.startswith('"'):
        word, *rest = text.split(maxsplit=1)[:2] or [""]
        return word, rest[0] if rest else ""
    try:
        word, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        raise Mistake(f"a word in quotes is a JSON string, and has to end: {_short(text)}") from None
    if text[end : end + 1].strip():
        raise Mistake(f"after a word in quotes a space is expected: {_short(text)}")
    return word, text[end:].lstrip()


def quoted(name: str) -> str:
    """Return a name as `split_word` reads it."""
    is_plain = name and name.isprintable() and not name.startswith('"') and " " not in name
    return name if is_plain else json.dumps(name)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"no such command: {_short(name)}; " + (f"is it {near[0]}?" if near else "help lists them")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _number(text: str, what: str, is_good: Callable[[int], bool]) -> int:
    # int() takes digits of all scripts, and underscores.
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and is_good(int(text))):
        raise Mistake(f"expected {what}, got {_short(text)}")
    return int(text)


def _connection(text: str) -> int:
    return _number(text, "the number of a connection; list shows them", lambda _: True)


def _size(text: str) -> int:
    return _number(text, f"a number of bytes from 0 to {MOST_BYTES}", lambda n: n <= MOST_BYTES)


def _close_code(text: str) -> int:
    return _number(
        text, "a close code that may be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999", _CLOSE_CODES.__contains__
    )


def _reason(text: str) -> str:
    if len(text.encode(errors="replace")) > MOST_REASON_BYTES:
        raise Mistake(f"a reason has at most {MOST_REASON_BYTES} bytes in UTF-8, got {len(text.encode())}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise Mistake(f"expected more than 0 and at most {MAX_TIMEOUT:.0f} seconds, got {_short(text)}")
    return seconds


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise Mistake(f"expected on or off, got {_short(text)}")
    return text == "on"


def _command(text: str) -> Command:
    if text not in COMMANDS:
        raise Mistake(_unknown(text))
    return COMMANDS[text]


def _as_it_is(text: str) -> str:
    return text


_READERS: dict[Kind, Callable[[str], Any]] = {
    **dict.fromkeys(Kind, _as_it_is),
    Kind.CLOSE_CODE: _close_code,
    Kind.COMMAND: _command,
    Kind.CONNECTION: _connection,
    Kind.ON_OFF: _on_off,
    Kind.REASON: _reason,
    Kind.SECONDS: _seconds,
    Kind.SIZE: _size,
}
