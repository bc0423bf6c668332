"""``callee`` and ``juggler.callee`` are two names of the same objects."""

from __future__ import annotations

from importlib import import_module

import pytest

DOORS = {
    "callee": "juggler.callee",
    "callee.cli": "juggler.callee.cli",
    "callee.demo": "juggler.callee.demo",
    "callee.errors": "juggler.callee.failures",
    "callee.testing": "juggler.callee.testing",
    "callee.worker": "juggler.callee.worker",
}


@pytest.mark.parametrize(("short", "long"), DOORS.items(), ids=DOORS)
def test_both_names_give_the_same_objects(short, long):
    one, other = import_module(short), import_module(long)
    assert one.__all__
    assert [name for name in one.__all__ if getattr(one, name) is not getattr(other, name)] == []


@pytest.mark.parametrize("name", ["callee", "callee.testing"])
def test_both_names_export_the_same(name):
    assert import_module(name).__all__ == import_module(DOORS[name]).__all__


def test_all_errors_have_a_short_name():
    failures = import_module("juggler.callee.failures")
    classes = [
        name for name, each in vars(failures).items() if isinstance(each, type) and issubclass(each, BaseException)
    ]
    assert sorted(classes) == import_module("callee.errors").__all__
