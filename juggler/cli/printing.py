"""Text for one line of a terminal, without control characters. PURE."""

from __future__ import annotations

from juggler.errors import CallFailed


def one_line(text: bytes) -> str:
    """Return JSON text without its line breaks, which can only stand between tokens."""
    return text.decode().replace("\r", " ").replace("\n", " ")


def printable(text: str) -> str:
    """Escape line breaks and control characters: the text may come from a remote peer."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe(error: Exception) -> str:
    """Return an error as one line, preceded by the exception type that the callee reported, if any."""
    type = error.type if isinstance(error, CallFailed) else ""
    return printable(f"{type}: {error}" if type else str(error))
