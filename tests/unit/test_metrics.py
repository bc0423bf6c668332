"""Counters, merging of snapshots, and rates between two scrapes."""

from __future__ import annotations

import pytest

from juggler.process.metrics import BUCKETS, MAX_URIS, OTHER, Metrics, Snapshot, merge
from juggler.process.metrics.exposition import parse, prometheus
from juggler.process.metrics.rates import quantile, rate, uris


def samples(*seconds: float):
    metrics = Metrics()
    for value in seconds:
        metrics.observe_call("f", value)
    return parse(prometheus(Snapshot(counters=metrics.counters(), calls=metrics.calls)).decode())


def test_a_latency_on_a_bound_belongs_to_it():
    metrics = Metrics()
    metrics.observe_call("f", BUCKETS[2])
    metrics.observe_call("f", 1e9)
    assert [n for n, count in enumerate(metrics.calls["f"].counts) if count] == [2, len(BUCKETS)]


def test_there_are_only_so_many_uris():
    metrics = Metrics()
    for number in range(MAX_URIS + 5):
        metrics.observe_call(str(number), 0.1)
    assert len(metrics.calls) == MAX_URIS + 1
    assert sum(metrics.calls[OTHER].counts) == 5


def test_merging_changes_none_of_what_is_merged():
    metrics = Metrics()
    metrics.observe_call("f", 0.1)
    one = Snapshot(gauges={"g": {"": 1}}, lowest={"l": {"": 0}}, highest={"h": {"": 1}}, calls=metrics.calls)
    both = merge([one, Snapshot(gauges={"g": {"": 2}}, lowest={"l": {"": 1}}, highest={"h": {"": 3}}), one])
    assert (both.gauges, both.lowest, both.highest) == ({"g": {"": 4}}, {"l": {"": 0}}, {"h": {"": 3}})
    assert sum(both.calls["f"].counts) == 2
    assert sum(metrics.calls["f"].counts) == 1


def test_quantiles_are_those_of_the_time_between():
    before, after = samples(*[5.0] * 50), samples(*[5.0] * 50, *[0.02] * 90, *[0.9] * 10)
    assert 0.01 < quantile(before, after, "f", 0.5) <= 0.025
    assert 0.5 < quantile(before, after, "f", 0.99) <= 1.0
    assert quantile(after, after, "f", 0.5) is None
    assert uris(after) == ["f"]


def test_a_counter_that_was_reset_grew_from_zero():
    name = "juggler_call_duration_seconds_count"
    assert rate(samples(1, 1), samples(1, 1, 1, 1), 2.0, name) == pytest.approx(1.0)
    assert rate(samples(1, 1, 1), samples(1), 2.0, name) == pytest.approx(0.5)
