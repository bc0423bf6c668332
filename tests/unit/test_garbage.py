"""The threshold of the garbage collector is raised, and never lowered."""

from __future__ import annotations

import gc

import pytest

from juggler.process.garbage import raise_gc_threshold


@pytest.fixture
def thresholds():
    before = gc.get_threshold()
    yield gc.set_threshold
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("before", "after"),
    [((700, 10, 9), 10_000), ((20_000, 10, 9), 20_000), ((0, 10, 9), 0)],
    ids=["few", "many", "off"],
)
def test_the_first_threshold(thresholds, before, after):
    thresholds(*before)
    raise_gc_threshold()
    assert gc.get_threshold() == (after, 10, 9)
