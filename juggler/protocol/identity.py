"""The identity of a caller as it travels: JSON of a limited size. PURE."""

from __future__ import annotations

from typing import Any

from juggler.errors import InvalidValue
from juggler.protocol.codec import encode_args

MAX_SIZE = 4096
"""Maximum size of an identity, in bytes of JSON."""


def encode_identity(identity: Any) -> bytes:
    """Return an identity as JSON text.

    Raises:
        InvalidValue: it is not JSON, or too large.
    """
    text = encode_args(identity)
    if len(text) > MAX_SIZE:
        raise InvalidValue(f"identity of a caller: expected at most {MAX_SIZE} bytes of JSON, got {len(text)}")
    return text
