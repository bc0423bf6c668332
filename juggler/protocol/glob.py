"""Glob patterns, matched byte for byte as Redis's ``PSUBSCRIBE`` does. PURE."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

Part: TypeAlias = Callable[[int], bool] | None
"""Whether a byte matches; ``None`` stands for ``*``, any number of bytes."""


def matches(pattern: str, name: str) -> bool:
    """Return whether ``name`` matches ``pattern`` (``*``, ``?``, ``[a-z]``, ``[^x]``; ``\\`` escapes a character).

    As in Redis, they are compared as UTF-8: ``?`` stands for one byte, not one character. The time is at most
    proportional to the product of their lengths, since only the last ``*`` is retried.
    """
    parts, text = _compiled(pattern), name.encode()
    part = at = 0
    star, retry = -1, 0
    while at < len(text):
        matcher = parts[part] if part < len(parts) else _nothing
        if matcher is None:
            star, retry = part, at
            part += 1
        elif matcher(text[at]):
            part += 1
            at += 1
        elif star >= 0:
            retry += 1
            part, at = star + 1, retry
        else:
            return False
    return all(left is None for left in parts[part:])


def _nothing(byte: int) -> bool:
    return False


def _anything(byte: int) -> bool:
    return True


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[Part, ...]:
    glob = pattern.encode()
    parts: list[Part] = []
    at = 0
    while at < len(glob):
        part, at = _translate(glob, at)
        parts.append(part)
    return tuple(parts)


def _translate(glob: bytes, at: int) -> tuple[Part, int]:
    """Return the part that starts at ``at``, and where the next one starts."""
    char = glob[at : at + 1]
    if char == b"*":
        return None, at + 1
    if char == b"?":
        return _anything, at + 1
    if char == b"[":
        return _translate_set(glob, at + 1)
    if char == b"\\" and at + 1 < len(glob):
        at += 1
    return glob[at].__eq__, at + 1


def _translate_set(glob: bytes, at: int) -> tuple[Part, int]:
    """Translate a set, from behind its opening bracket. An unclosed one ends with the pattern, as in Redis."""
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
    return frozenset(members).__contains__, at + 1
