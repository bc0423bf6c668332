"""Lines shown by ``juggler client``."""

from __future__ import annotations

import pytest

from juggler.cli.terminal import lines
from juggler.protocol.messages import Evnt


def text(line: lines.StyledLine) -> str:
    assert all(style in ("", *lines.STYLES) for style, _ in line)
    return "".join(part for _, part in line)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.00012, "0.1 ms"), (0.0123, "12.3 ms"), (1, "1.000 s"), (61.5, "61.500 s")]
)
def test_durations_have_a_unit(seconds, shown):
    assert lines.duration(seconds) == shown


def test_each_kind_of_line():
    event = Evnt(for_="x", channel="news.a", pattern="news.*", args=b"[1,\n2]")
    assert text(lines.result(1, "f", b'"x"', 0.01)) == '[1] result f "x"  (10.0 ms)'
    assert text(lines.failed(2, "f", "E: why", 2)) == "[2] failed f E: why  (2.000 s)"
    assert text(lines.event(1, event)) == "[1] event news.a (news.*) [1, 2]"
    assert text(lines.raw(1, "out", "x")) == "[1] >> x"
    assert text(lines.raw(1, "in", "x")) == "[1] << x"
    assert text(lines.raw(1, "out", b"\x00\xff")) == "[1] >> 2 bytes: 00ff"
    assert text(lines.raw(1, "out", bytes(33))) == f"[1] >> 33 bytes: {64 * '0'}…"
    assert text(lines.error("no")) == "error: no"


@pytest.mark.parametrize(
    "line",
    [
        lines.result(1, "\x1b[2J", b'"\x7f"', 1),
        lines.failed(1, "f\n", "\r\x1b", 1),
        lines.event(1, Evnt(for_="x", channel="\x1b]0;x\x07", pattern="\x9b", args='"\u202e"'.encode())),
        lines.raw(1, "in", '"\x1b[2J\n"'),
        lines.problem(1, "bye\x1b"),
        lines.error("\x1b"),
    ],
)
def test_remote_text_cannot_control_the_terminal(line):
    assert text(line).isprintable()


def test_a_long_text_is_cut():
    shown = text(lines.raw(1, "in", 30_000 * "x"))
    assert shown.endswith("xx… (30000 characters)")
    assert len(shown) < 20_100
