"""When a process is to be replaced."""

from __future__ import annotations

import pytest

from juggler.callee.wear import JITTER, UNLIMITED, WearLimits


def test_unlimited_processes_are_never_replaced():
    assert not UNLIMITED
    assert UNLIMITED.reason(10**9, 10**12) is None
    assert UNLIMITED.jittered(1.0) == UNLIMITED


@pytest.mark.parametrize(
    ("calls", "memory", "reason"),
    [
        (99, 0, None),
        (1_000, 0, "1,000 calls"),
        (0, 499_999_999, None),
        (0, 500_000_000, "500 MB"),
        (0, None, None),
        (100, 600_000_000, "100 calls"),
    ],
)
def test_reasons(calls, memory, reason):
    limits = WearLimits(100, 500_000_000)
    assert limits
    assert limits.reason(calls, memory) == reason


def test_jitter_lowers_limits_but_not_to_none():
    assert WearLimits(100, 1_000).jittered(0.0) == WearLimits(100, 1_000)
    assert WearLimits(100, 1_000).jittered(1.0) == WearLimits(round(100 * (1 - JITTER)), int(1_000 * (1 - JITTER)))
    assert WearLimits(1, 0).jittered(1.0) == WearLimits(1, 0)
