"""Parse HTTP headers of the opening handshake, and refuse malformed ones. PURE."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

from juggler.errors import HandshakeRefused

_short = reprlib.Repr()
_short.maxstring = 80
short_repr = _short.repr


def refused(
    status: str, what: str, expected: str, got: object, headers: Sequence[tuple[str, str]] = ()
) -> HandshakeRefused:
    """Return the error for a header: its name, what was expected, and what the client sent."""
    shown = "none" if got is None or got == "" else short_repr(got)
    return HandshakeRefused(status, f"{what}: expected {expected}, got {shown}", headers)


def tokens(value: str | None) -> list[str]:
    """Return the non-empty elements of a comma-separated header."""
    return [token for part in (value or "").split(",") if (token := part.strip(" \t"))]
