"""The words for a worker's figures: for Prometheus, and those of the Go package."""

from __future__ import annotations

from typing import Any

from juggler.process.metrics import Snapshot
from juggler.process.metrics.exposition import Words

_BY_URI = ("uri",)

WORDS = Words(
    counters={
        "juggler_callee_requests": ("Calls taken from Redis.", _BY_URI),
        "juggler_callee_successes": ("Calls answered with a result.", _BY_URI),
        "juggler_callee_failures": ("Calls answered with an error.", _BY_URI),
        "juggler_callee_expiries": ("Calls that nobody waited for when they began or ended.", _BY_URI),
        "juggler_callee_calls_expired": ("Calls that nobody waited for when they were taken.", ()),
        "juggler_callee_calls_invalid": ("What was taken and is no call.", ()),
        "juggler_callee_calls_unchecked": ("Times that it could not be asked whether calls are wanted.", ()),
        "juggler_callee_results_late": ("Results that nobody waited for.", ()),
    },
    gauges={
        "juggler_callee_running": ("Calls that run now.", _BY_URI),
        "juggler_callee_processes": ("Processes that these figures are of.", ()),
    },
    histograms={
        "calls": ("juggler_callee_duration_seconds", "How long the function ran."),
        "waits": ("juggler_callee_wait_seconds", "How long the call had waited in Redis."),
    },
)

_COUNTS = ("requests", "successes", "failures", "expiries")


def total(snapshot: Snapshot) -> str:
    """Return the counts of all URIs together, in words."""
    sums = {name: int(sum(snapshot.counters.get(f"juggler_callee_{name}", {}).values())) for name in _COUNTS}
    return ", ".join(f"{number} {name}" for name, number in sums.items())


def go_variables(snapshot: Snapshot) -> dict[str, Any]:
    """Return the snapshot under the names that the Go package gives to its variables."""

    def of(name: str) -> int:
        return int(snapshot.counters.get(f"juggler_callee_{name}", {}).get("", 0))

    by_uri = {
        uri: {
            name.capitalize(): int(snapshot.counters.get(f"juggler_callee_{name}", {}).get(uri, 0)) for name in _COUNTS
        }
        for uri in snapshot.counters.get("juggler_callee_requests", {})
    }
    return {
        "Calls": int(sum(snapshot.counters.get("juggler_callee_requests", {}).values())),
        "ExpiredCalls": of("calls_expired"),
        "FailedCallPayloadUnmarshals": of("calls_invalid"),
        "FailedPTTLCalls": of("calls_unchecked"),
        "URIs": by_uri,
    }
