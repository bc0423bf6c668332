"""Commands as Redis reads them. PURE."""

from __future__ import annotations

from hiredis import pack_command


def pack(*command: bytes | str | int) -> bytes:
    """Return a command and its arguments in the Redis serialisation protocol."""
    packed: bytes = pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed
