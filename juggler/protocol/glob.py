"""Glob patterns, matched byte for byte as Redis's ``PSUBSCRIBE`` does. PURE."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol, TypeAlias

Bytes: TypeAlias = frozenset[int] | None
"""The bytes that match at one place; ``None`` stands for ``*``, any number of bytes."""

_ANY = frozenset(range(256))
_SPECIAL = re.compile(rb"([*?\[\]\\^-])")


def matches(pattern: str, name: str) -> bool:
    """Return whether ``name`` matches ``pattern`` (``*``, ``?``, ``[a-z]``, ``[^x]``; ``\\`` escapes a character).

    As in Redis, they are compared as UTF-8: ``?`` stands for one byte, not one character. The time is at most
    proportional to the product of their lengths, since only the last ``*`` is retried.
    """
    return compiled(pattern.encode()).matches(name.encode())


def escape(text: bytes) -> bytes:
    """Return a pattern that matches ``text`` and nothing else."""
    return _SPECIAL.sub(rb"\\\1", text)


class Glob:
    """A pattern that is ready to match.

    Attributes:
        prefix: bytes that all matching names begin with.
    """

    __slots__ = ("_first", "_has_star", "_last", "_middle", "_shortest", "prefix")

    def __init__(self, pattern: bytes) -> None:
        parts = _parts(pattern)
        segments: list[list[frozenset[int]]] = [[]]
        for part in parts:
            if part is None:
                segments.append([])
            else:
                segments[-1].append(part)
        self._has_star = len(segments) > 1
        self._first = _segment(segments[0])
        self._last = _segment(segments[-1])
        self._middle = [_segment(each) for each in segments[1:-1] if each]
        self._shortest = len(parts) - parts.count(None)
        literal: list[int] = []
        for part in segments[0]:
            if len(part) != 1:
                break
            literal += part
        self.prefix = bytes(literal)

    def matches(self, name: bytes) -> bool:
        """Return whether a name matches."""
        end = len(name)
        if end < self._shortest or not (self._has_star or end == self._shortest) or not self._first.is_at(name, 0):
            return False
        if not self._has_star:
            return True
        end -= self._last.length
        if not self._last.is_at(name, end):
            return False
        at = self._first.length
        for segment in self._middle:
            # The first place is the best one for those that follow.
            at = segment.find(name, at, end)
            if at < 0:
                return False
            at += segment.length
        return True


@lru_cache(maxsize=1024)
def compiled(pattern: bytes) -> Glob:
    """Return a pattern that is ready to match."""
    return Glob(pattern)


class _Segment(Protocol):
    """A part of a pattern between two ``*``."""

    length: int

    def is_at(self, name: bytes, at: int) -> bool:
        """Return whether it matches at one place, from which the name has enough bytes."""

    def find(self, name: bytes, start: int, end: int) -> int:
        """Return the first place where it matches, or -1."""


class _Literal:
    __slots__ = ("_text", "length")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.length = len(text)

    def is_at(self, name: bytes, at: int) -> bool:
        return name.startswith(self._text, at)

    def find(self, name: bytes, start: int, end: int) -> int:
        return name.find(self._text, start, end)


class _Sets:
    __slots__ = ("_regex", "length")

    def __init__(self, sets: list[frozenset[int]]) -> None:
        self._regex = re.compile(b"".join(map(_regex_of, sets)), re.DOTALL)
        self.length = len(sets)

    def is_at(self, name: bytes, at: int) -> bool:
        return self._regex.match(name, at) is not None

    def find(self, name: bytes, start: int, end: int) -> int:
        found = self._regex.search(name, start, end)
        return -1 if found is None else found.start()


def _segment(sets: list[frozenset[int]]) -> _Segment:
    if all(len(each) == 1 for each in sets):
        return _Literal(bytes(byte for (byte,) in sets))
    return _Sets(sets)


def _regex_of(members: frozenset[int]) -> bytes:
    if members == _ANY:
        return b"."
    return b"[%b]" % b"".join(b"\\x%02x" % byte for byte in members) if members else b"(?!)"


def _parts(glob: bytes) -> list[Bytes]:
    parts: list[Bytes] = []
    at = 0
    while at < len(glob):
        part, at = _translate(glob, at)
        parts.append(part)
    return parts


def _translate(glob: bytes, at: int) -> tuple[Bytes, int]:
    """Return the part that starts at ``at``, and where the next one starts."""
    char = glob[at : at + 1]
    if char == b"*":
        return None, at + 1
    if char == b"?":
        return _ANY, at + 1
    if char == b"[":
        return _translate_set(glob, at + 1)
    if char == b"\\" and at + 1 < len(glob):
        at += 1
    return frozenset((glob[at],)), at + 1


def _translate_set(glob: bytes, at: int) -> tuple[Bytes, int]:
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
    return frozenset(_ANY - members if negated else members), at + 1
