"""Text for one line of a terminal, without control characters. PURE."""

from __future__ import annotations

from juggler.errors import CallFailed
from juggler.process.logline import printable


def one_line(text: bytes) -> str:
    """Return JSON text without its line breaks, which can only stand between tokens."""
    return text.decode().replace("\r", " ").replace("\n", " ")


def describe(error: Exception) -> str:
    """Return an error as one line, preceded by the exception type that the callee reported, if any."""
    type = error.type if isinstance(error, CallFailed) else ""
    return printable(f"{type}: {error}" if type else str(error))
