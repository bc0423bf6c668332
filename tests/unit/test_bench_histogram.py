"""The histogram loses no duration, and its quantiles are within 3 %."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench.generator.histogram import Histogram, bounds_of, bucket_of

durations = st.integers(0, 10**14)


def histogram(values):
    made = Histogram()
    for value in values:
        made.record(value)
    return made


@given(durations)
def test_a_duration_is_within_the_bounds_of_its_bucket(ns):
    lowest, above = bounds_of(bucket_of(ns))
    assert lowest <= ns < above


@given(durations)
def test_buckets_are_narrow_and_without_gaps(ns):
    bucket = bucket_of(ns)
    lowest, above = bounds_of(bucket)
    assert above - lowest <= max(1, lowest / 32)
    assert bucket_of(above) == bucket + 1


@given(st.lists(durations, min_size=1), st.floats(0, 1))
def test_quantiles_are_near_those_of_the_durations(values, share):
    in_order = sorted(values)
    exact = in_order[max(0, -int(-share * len(values) // 1) - 1)]
    assert histogram(values).quantile(share) * 1e9 == pytest.approx(exact, rel=0.03, abs=1)


@given(st.lists(durations), st.lists(durations))
def test_adding_equals_counting_together(some, more):
    summed = histogram(some)
    summed.add(histogram(more))
    whole = histogram(some + more)
    assert (summed.counts, summed.count, summed.longest_ns) == (whole.counts, whole.count, whole.longest_ns)


@given(st.lists(durations))
def test_json_keeps_everything(values):
    made = histogram(values)
    again = Histogram.from_json(json.loads(json.dumps(made.to_json())))
    assert (again.counts, again.count, again.longest_ns) == (made.counts, made.count, made.longest_ns)


def test_the_size_does_not_grow_with_the_number():
    assert len(histogram(range(0, 10_000_000, 999)).counts) < 700


def test_negative_durations_count_as_0():
    assert histogram([-5]).quantile(1) == 0


def test_an_empty_histogram_has_no_quantiles():
    with pytest.raises(ValueError, match="the histogram is empty"):
        Histogram().quantile(0.5)
