"""The history file of ``juggler client``."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from juggler.cli.terminal.client_connection import Recent
from juggler.cli.terminal.history import History, default_path


def test_lines_come_back_the_oldest_first(tmp_path):
    file = tmp_path / "state" / "juggler" / "history"
    assert History(file).load() == []
    for line in ("call x", "send two\nlines \ud800"):
        History(file).add(line)
    assert History(file).load() == ["call x", "send two\nlines \ud800"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_it_is_bounded_when_it_is_loaded_and_while_it_grows(tmp_path):
    file = tmp_path / "history"
    history = History(file, max_lines=3)
    for number in range(7):
        history.add(f"line {number}")
        assert len(file.read_text().splitlines()) <= 6
    assert history.load() == ["line 4", "line 5", "line 6"]
    assert len(file.read_text().splitlines()) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_line_of_ours_is_left_out(tmp_path):
    file = tmp_path / "history"
    file.write_bytes(b'"a"\n{}\nb\n\xff\xfe\n\n"c"\n"d')
    assert History(file).load() == ["a", "c"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_STATE_HOME": "/state"}, Path("/state/juggler/history")),
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/juggler/history"),
        ({"XDG_STATE_HOME": ""}, Path.home() / ".local/state/juggler/history"),
        ({}, Path.home() / ".local/state/juggler/history"),
    ],
)
def test_where_it_is(environment, expected):
    assert default_path(environment) == expected


def test_names_that_were_used_of_late_are_kept():
    names = Recent("ab", most=2)
    for name in ("a", "c"):
        names.add(name)
    assert names.all() == ["a", "c"]
    assert "b" not in names
