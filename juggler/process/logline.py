"""Log lines: the event first, in the same words each time, then the details as key=value.

Loggers are those of the standard library. A line is formatted only if a handler wants it; with the formatters of
`juggler.process.logs` its details become fields of their own.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

_is_plain = re.compile(r"[\w.:/@+,%*\[\]{}()<>#!?~^&$;-]+").fullmatch


class Line:
    """One log line, to be passed to a logger in place of a message.

    ::

        log.warning(Line("redis: connection lost", link="commands", error=error))
        # redis: connection lost link=commands error="closed by redis"

    Attributes:
        event: what happened, a constant.
        fields: details by name. A float is written with at most four significant digits.
    """

    __slots__ = ("event", "fields")

    def __init__(self, event: str, /, **fields: Any) -> None:
        self.event = event
        self.fields = fields

    def shown(self) -> dict[str, Any]:
        """Return the details as they are written: numbers, booleans and None as they are, others as text."""
        return {name: _shown(value) for name, value in self.fields.items()}

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{name}={quoted(value)}" for name, value in self.shown().items())])


def _shown(value: Any) -> Any:
    if type(value) is float:
        return float(f"{value:.4g}")
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def quoted(value: Any) -> str:
    """Return a value as text on one line; as a JSON string if it has spaces, quotes or unprintable characters."""
    text = str(value)
    if _is_plain(text):
        return text
    text = json.dumps(text, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """Escape line breaks and control characters: the text may come from a remote peer."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def indented(block: str) -> str:
    """Return the lines of a traceback, each after a line break and spaces: text in them cannot pass for a record."""
    return "".join(f"\n    {printable(line)}" for line in block.split("\n"))


class PlainFormatter(logging.Formatter):
    """Formats the message alone, as the standard library does without configuration, but as one printable line."""

    def format(self, record: logging.LogRecord) -> str:
        traceback = indented(self.formatException(record.exc_info)) if record.exc_info else ""
        return printable(record.getMessage()) + traceback
