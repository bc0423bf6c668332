"""Format what the terminal shows: one line of styled parts each, without control characters. PURE."""

from __future__ import annotations

from typing import TypeAlias

from juggler.cli.printing import one_line
from juggler.process.logline import printable
from juggler.protocol.messages import Evnt

StyledLine: TypeAlias = list[tuple[str, str]]
"""Parts of a line: a name of `STYLES`, or an empty string, and text."""

STYLES = {
    "number": "bold",
    "name": "bold",
    "result": "ansigreen",
    "event": "ansimagenta",
    "error": "ansired",
    "out": "ansiyellow",
    "in": "ansicyan",
}
"""Named colours of the terminal, which its user has chosen to be readable."""

MAX_LENGTH = 20_000
"""Characters shown of a text."""
_MAX_BINARY = 32


def duration(seconds: float) -> str:
    """Return a duration with its unit."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.3f} s"


def result(number: int, uri: str, args: bytes, seconds: float) -> StyledLine:
    return [*_head(number, "result", "result", uri), ("", f"{_json(args)}  ({duration(seconds)})")]


def failed(number: int, uri: str, why: str, seconds: float) -> StyledLine:
    return [*_head(number, "error", "failed", uri), ("", f"{_clean(why)}  ({duration(seconds)})")]


def event(number: int, message: Evnt) -> StyledLine:
    pattern = f"({printable(message.pattern)}) " if message.pattern else ""
    return [*_head(number, "event", "event", message.channel), ("", pattern + _json(message.args))]


def raw(number: int, direction: str, message: str | bytes) -> StyledLine:
    if isinstance(message, bytes):
        more = "…" if len(message) > _MAX_BINARY else ""
        text = f"{len(message)} bytes: {message[:_MAX_BINARY].hex()}{more}"
    else:
        text = _clean(message)
    return [_number(number), (direction, {"out": ">> ", "in": "<< "}[direction]), ("", text)]


def info(number: int, text: str) -> StyledLine:
    """Format news of a connection."""
    return [_number(number), ("", _clean(text))]


def problem(number: int, text: str) -> StyledLine:
    """Format a problem of a connection."""
    return [_number(number), ("error", _clean(text))]


def note(text: str) -> StyledLine:
    return [("", _clean(text))]


def error(text: str) -> StyledLine:
    return [("error", "error: "), ("", _clean(text))]


def _head(number: int, style: str, word: str, name: str) -> StyledLine:
    return [_number(number), (style, f"{word} "), ("name", printable(name)), ("", " ")]


def _number(number: int) -> tuple[str, str]:
    return ("number", f"[{number}] ")


def _json(text: bytes) -> str:
    return _clean(one_line(text))


def _clean(text: str) -> str:
    if len(text) > MAX_LENGTH:
        text = f"{text[:MAX_LENGTH]}… ({len(text)} characters)"
    return printable(text)
