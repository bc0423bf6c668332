"""Ratios of measurements taken in turn, division of work, limits and errors."""

from __future__ import annotations

import resource

import pytest

from loadtest.bench.harness.compare import Comparison
from loadtest.bench.harness.load import shares
from loadtest.bench.harness.measured_stack import SPARE_FILES, allow_connections
from loadtest.bench.harness.ratios import BETTER, SAME, WORSE, ratio
from loadtest.bench.harness.report import Result, Row
from loadtest.errors import LoadTestError, one_line


def test_rounds_are_compared_with_themselves():
    # The machine becomes slower during the rounds, for both.
    found = ratio([100, 50, 25], [110, 54, 28])
    assert (found.a, found.b) == (50, 54)
    assert found.middle == pytest.approx(1.10)
    assert (found.lowest, found.highest) == (pytest.approx(1.08), pytest.approx(1.12))


@pytest.mark.parametrize(
    ("b", "more_is_better", "verdict"),
    [
        ([2] * 6, True, BETTER),
        ([2] * 6, False, WORSE),
        ([0.5] * 6, True, WORSE),
        ([0.5] * 6, False, BETTER),
        ([2, 2, 2, 2, 2, 0.9], True, SAME),
        ([2] * 5, True, SAME),
    ],
)
def test_a_verdict_needs_that_enough_rounds_agree(b, more_is_better, verdict):
    assert ratio([1] * len(b), b).verdict(more_is_better) == verdict


@pytest.mark.parametrize(("a", "b"), [([0, 1], [1, 1]), ([], [1]), ([1], [])])
def test_there_is_no_ratio_to_zero(a, b):
    assert ratio(a, b) is None


def test_a_comparison_has_the_values_that_both_have():
    def results(*values):
        return [Result("rpc", {}, [Row("row", value)]) for value in values]

    a = results({"calls/s": 10, "old ms": 1}, {"calls/s": 20, "old ms": 1})
    found = Comparison(("a", "b"), ("1", "2"), {}, (a, results({"calls/s": 20}, {"calls/s": 40})))
    assert {key: each.middle for key, each in found.ratios().items()} == {("rpc", "row", "calls/s"): 2}


@pytest.mark.parametrize(
    ("total", "processes", "expected"), [(10, 3, [4, 3, 3]), (2, 4, [1, 1]), (0, 2, []), (5, 1, [5])]
)
def test_work_is_divided_evenly_and_no_share_is_empty(total, processes, expected):
    assert shares(total, processes) == expected


def test_too_many_connections_are_refused_with_advice():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("no limit here")
    with pytest.raises(LoadTestError, match=f"and {hard:,} are allowed: ask for {hard - SPARE_FILES:,} connections"):
        allow_connections(hard)


def test_errors_are_one_line():
    assert one_line("a\n\n  b\n") == "a; b"
    assert len(one_line("x" * 10_000)) == 400
