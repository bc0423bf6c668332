"""The history file of ``juggler client``."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from juggler.cli.terminal.client_connection import Recent
from juggler.cli.terminal.history import History, default_path


def test_lines_are_loaded_oldest_first(tmp_path):
    file = tmp_path / "state" / "juggler" / "history"
    assert History(file).load() == []
    for line in ("call x", "send two\nlines \ud800"):
        History(file).add(line)
    assert History(file).load() == ["call x", "send two\nlines \ud800"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_file_is_bounded_when_loaded_and_while_it_grows(tmp_path):
    file = tmp_path / "history"
    history = History(file, max_lines=3)
    for number in range(7):
        history.add(f"line {number}")
        assert len(file.read_text().splitlines()) <= 6
    assert history.load() == ["line 4", "line 5", "line 6"]
    assert len(file.read_text().splitlines()) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_invalid_lines_are_ignored(tmp_path):
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
def test_the_default_path(environment, expected):
    assert default_path(environment) == expected


def test_recently_used_names_are_kept():
    names = Recent("ab", max_names=2)
    for name in ("a", "c"):
        names.add(name)
    assert names.all() == ["a", "c"]
    assert "b" not in names
