"""Token buckets, with the test's own clock."""

from __future__ import annotations

import pytest

from juggler.errors import ConfigError
from juggler.handlers.rate_limit import Buckets, rate_limit


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    buckets = Buckets(2, 3, clock=clock)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a") == 0.5
    clock.now += 0.25
    assert buckets.take("a") == 0.25  # the refusal took no token
    clock.now += 0.25
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    clock.now += 100
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_the_number_of_buckets_is_bounded_and_the_oldest_dropped():
    buckets = Buckets(1, 1, most=2, clock=Clock())
    for key in "abac":
        buckets.take(key)
    assert len(buckets) == 2
    assert buckets.take("a") > 0
    assert buckets.take("b") == 0


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": 1, "burst": 0.5}, {"rate": 1, "key": "colour"}, {"rate": 1, "types": [8]}]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        rate_limit(**options)
