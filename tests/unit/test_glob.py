"""Glob patterns, compared with a direct translation of what Redis does byte by byte."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.protocol.glob import compiled, escape, matches


def reference(pattern: bytes, text: bytes) -> bool:
    """Match as Redis describes it: recursively, one part of the pattern after the other."""
    if not pattern:
        return not text
    first, rest = pattern[:1], pattern[1:]
    if first == b"*":
        return any(reference(rest, text[start:]) for start in range(len(text) + 1))
    if not text:
        return False
    if first == b"[":
        is_negated = rest[:1] == b"^"
        rest = rest[is_negated:]
        found = False
        while rest and rest[:1] != b"]":
            if rest[:1] == b"\\" and len(rest) > 1:
                found, rest = found or rest[1] == text[0], rest[2:]
            elif rest[1:2] == b"-" and len(rest) > 2:
                found, rest = found or min(rest[0], rest[2]) <= text[0] <= max(rest[0], rest[2]), rest[3:]
            else:
                found, rest = found or rest[0] == text[0], rest[1:]
        return found is not is_negated and reference(rest[1:], text[1:])
    if first == b"\\" and rest:
        first, rest = rest[:1], rest[1:]
    elif first == b"?":
        first = text[:1]
    return first == text[:1] and reference(rest, text[1:])


@given(st.text("ab*?[]^-\\ü", max_size=9), st.text("abü*-]^\\", max_size=7))
def test_patterns_match_as_in_redis(pattern: str, text: str) -> None:
    assert matches(pattern, text) == reference(pattern.encode(), text.encode())


@given(st.text("ab*?[]^-\\", max_size=9), st.text("ab*]", max_size=7))
def test_what_matches_begins_with_the_prefix(pattern: str, text: str) -> None:
    glob = compiled(pattern.encode())
    assert text.encode().startswith(glob.prefix) or not matches(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (b"", b""),
        (b"*", b""),
        (b"room.*", b"room."),
        (b"room.?.chat", b"room."),
        (rb"a\*b[c]d*", b"a*bcd"),
        (b"a[bc]*", b"a"),
        (b"all", b"all"),
        ("ü*".encode(), "ü".encode()),
    ],
)
def test_the_prefix_of_a_pattern(pattern: bytes, prefix: bytes) -> None:
    assert compiled(pattern).prefix == prefix


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_an_escaped_text_matches_itself_only(text: bytes, other: bytes) -> None:
    glob = compiled(escape(text))
    assert glob.matches(text)
    assert glob.matches(other) is (text == other)
    assert glob.prefix == text


@pytest.mark.alone
@pytest.mark.parametrize(
    "pattern", ["*" + "a" * 126 + "b", "*a" * 60 + "b*", "*" + "a?" * 60 + "b*", "*" + "[a-z]" * 24 + "b*"]
)
def test_no_pattern_is_costly(pattern: str) -> None:
    """The limit is far above what is measured, and far below what a recursive search takes."""
    began = time.process_time()
    for _ in range(100):
        assert not matches(pattern, "a" * 512)
    assert time.process_time() - began < 1
