"""Redis's glob patterns, byte for byte as its ``PSUBSCRIBE`` matches them. PURE."""

from __future__ import annotations

import re
from functools import lru_cache

_ANY = b"[\\x00-\\xff]"


def matches(pattern: str, name: str) -> bool:
    """Tell whether ``name`` matches ``pattern`` (``*``, ``?``, ``[a-z]``, ``[^x]``, ``\\`` takes the next literally).

    As in Redis they are compared as UTF-8: ``?`` stands for one byte, not one character.
    """
    return _compiled(pattern).fullmatch(name.encode()) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[bytes]:
    glob = pattern.encode()
    parts: list[bytes] = []
    at = 0
    while at < len(glob):
        part, at = _translate(glob, at)
        parts.append(part)
    return re.compile(b"".join(parts))


def _translate(glob: bytes, at: int) -> tuple[bytes, int]:
    """Return the regular expression of what starts at ``at``, and where the next thing starts."""
    char = glob[at : at + 1]
    if char == b"*":
        return _ANY + b"*", at + 1
    if char == b"?":
        return _ANY, at + 1
    if char == b"[":
        return _translate_set(glob, at + 1)
    if char == b"\\" and at + 1 < len(glob):
        at += 1
    return re.escape(glob[at : at + 1]), at + 1


def _translate_set(glob: bytes, at: int) -> tuple[bytes, int]:
    """Translate ``[…]`` from behind its bracket. One that is never closed ends with the pattern, as in Redis."""
    negated = glob[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(glob) and glob[at] != ord("]"):
        if glob[at] == ord("\\") and at + 1 < len(glob):
            members.add(glob[at + 1])
            at += 2
        elif glob[at + 1 : at + 2] == b"-" and at + 2 < len(glob):
            low, high = sorted((glob[at], glob[at + 2]))
            members.update(range(low, high + 1))
            at += 3
        else:
            members.add(glob[at])
            at += 1
    if negated:
        members = set(range(256)) - members
    return _one_of(members), at + 1


def _one_of(members: set[int]) -> bytes:
    if not members:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]"
