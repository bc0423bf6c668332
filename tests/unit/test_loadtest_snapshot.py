"""loadtest.soak.snapshot: growth is found, within the documented limits."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import pytest

from loadtest.soak.snapshot import GAUGES, MEMORY_BYTES, Snapshot, compare, is_set, kinds, table

MIB = 2**20


@pytest.fixture
def begin():
    return Snapshot(
        memory={"callee": [40 * MIB], "worker": [50 * MIB, 48 * MIB]},
        files={"callee": [7], "worker": [12, 11]},
        gauges=dict.fromkeys(GAUGES, 0.0) | {"juggler_workers": 2.0},
        keys=Counter({"juggler:uris": 1}),
        members={"juggler:uris": 3, "juggler:callees:{u}": 2},
    )


def wrong(begin, end):
    return [row.what for row in compare(begin, end) if not row.ok]


def test_equal_snapshots(begin):
    assert wrong(begin, deepcopy(begin)) == []


def test_memory_may_grow_by_as_much_as_is_documented(begin):
    end = deepcopy(begin)
    end.memory["callee"] = [44 * MIB + MEMORY_BYTES]
    assert wrong(begin, end) == []
    end.memory["callee"] = [44 * MIB + MEMORY_BYTES + 1]
    assert wrong(begin, end) == ["memory, callee"]


def test_one_process_of_several_has_grown(begin):
    end = deepcopy(begin)
    end.memory["worker"] = [20 * MIB, 200 * MIB]
    assert wrong(begin, end) == ["memory, worker"]


@pytest.mark.parametrize(("files", "ok"), [([12, 11], True), ([10, 12], True), ([13, 3], False), ([12], False)])
def test_files(begin, files, ok):
    end = deepcopy(begin)
    end.files["worker"] = files
    assert wrong(begin, end) == ([] if ok else ["files, worker"])


def test_a_role_without_processes(begin):
    end = deepcopy(begin)
    del end.memory["callee"], end.files["callee"]
    assert wrong(begin, end) == ["memory, callee", "files, callee"]


@pytest.mark.parametrize("name", GAUGES)
def test_a_gauge_has_changed(begin, name):
    end = deepcopy(begin)
    end.gauges[name] += 1
    assert wrong(begin, end) == [name]


def test_keys(begin):
    end = deepcopy(begin)
    end.keys["juggler:results:{*}"] += 1
    assert wrong(begin, end) == ["keys, juggler:results:{*}"]
    assert wrong(end, begin) == ["keys, juggler:results:{*}"]


def test_keys_are_counted_by_kind():
    keys = [
        "juggler:uris",
        "juggler:servers",
        "juggler:server:{5b6f}",
        "juggler:control:{5b6f}",
        "juggler:callee:{5b6f}",
        "juggler:callee:{0a1e}",
        "juggler:callees:{f}",
        "juggler:callees:{f}:one",
        "juggler:callees:{f}:two",
        "juggler:calls:{f}",
        "juggler:calls:timeout:{f}:1",
        "juggler:results:{a}",
        "juggler:results:{b}",
        "juggler:results:timeout:{a}:1",
    ]
    assert kinds(keys) == {
        "juggler:uris": 1,
        "juggler:callees:{f}": 1,
        "juggler:callees:{f}:*": 2,
        "juggler:calls:{f}": 1,
        "juggler:calls:timeout:{f}:*": 1,
        "juggler:servers": 1,
        "juggler:server:{*}": 1,
        "juggler:control:{*}": 1,
        "juggler:callee:{*}": 2,
        "juggler:results:{*}": 2,
        "juggler:results:timeout:{*}:*": 1,
    }


def test_the_table_marks_what_is_wrong(begin):
    end = deepcopy(begin)
    end.files["callee"] = [99]
    lines = table(compare(begin, end))
    assert [line.split()[1] for line in lines if line.endswith("WRONG")] == ["callee"]
    assert len(lines) == 1 + 2 + 2 + len(GAUGES) + 1 + 2


def test_a_set_has_grown(begin):
    end = deepcopy(begin)
    end.members["juggler:callees:{u}"] += 1
    end.members["juggler:callees:{v}"] = 1
    assert wrong(begin, end) == ["members, juggler:callees:{u}", "members, juggler:callees:{v}"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("juggler:uris", True),
        ("juggler:servers", True),
        ("juggler:server:{5b6f}", False),
        ("juggler:callees:{a:b}", True),
        ("juggler:callees:{a}:5b6f", False),
        ("juggler:calls:{a}", False),
    ],
)
def test_sets_of_the_catalogue(key, expected):
    assert is_set(key) is expected
