"""How what happens looks on the screen: one line for each, as styled parts. PURE.

Others have written much of it: no control character gets through.
"""

from __future__ import annotations

from typing import TypeAlias

from juggler.cli.printing import one_line, printable
from juggler.protocol.messages import Evnt

Line: TypeAlias = list[tuple[str, str]]
"""Parts of a line: the name of a style, see `STYLES`, and a text."""

STYLES = {
    "number": "bold",
    "name": "bold",
    "result": "ansigreen",
    "event": "ansimagenta",
    "error": "ansired",
    "out": "ansiyellow",
    "in": "ansicyan",
}
"""Colours by name, which terminals show as their users can read them."""

LONGEST = 20_000
"""Characters of a text that are shown."""
_LONGEST_BINARY = 32


def duration(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.3f} s"


def result(number: int, uri: str, args: bytes, seconds: float) -> Line:
    return [*_head(number, "result", "result", uri), ("", f"{_json(args)}  ({duration(seconds)})")]


def failed(number: int, uri: str, why: str, seconds: float) -> Line:
    return [*_head(number, "error", "failed", uri), ("", f"{_clean(why)}  ({duration(seconds)})")]


def event(number: int, message: Evnt) -> Line:
    pattern = f"({printable(message.pattern)}) " if message.pattern else ""
    return [*_head(number, "event", "event", message.channel), ("", pattern + _json(message.args))]


def raw(number: int, direction: str, message: str | bytes) -> Line:
    if isinstance(message, bytes):
        more = "…" if len(message) > _LONGEST_BINARY else ""
        text = f"{len(message)} bytes: {message[:_LONGEST_BINARY].hex()}{more}"
    else:
        text = _clean(message)
    return [_number(number), (direction, {"out": ">> ", "in": "<< "}[direction]), ("", text)]


def said(number: int, text: str) -> Line:
    """Something about a connection."""
    return [_number(number), ("", _clean(text))]


def trouble(number: int, text: str) -> Line:
    """Something bad about a connection."""
    return [_number(number), ("error", _clean(text))]


def note(text: str) -> Line:
    return [("", _clean(text))]


def error(text: str) -> Line:
    return [("error", "error: "), ("", _clean(text))]


def _head(number: int, style: str, word: str, name: str) -> Line:
    return [_number(number), (style, f"{word} "), ("name", printable(name)), ("", " ")]


def _number(number: int) -> tuple[str, str]:
    return ("number", f"[{number}] ")


def _json(text: bytes) -> str:
    return _clean(one_line(text))


def _clean(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text)} characters)"
    return printable(text)
