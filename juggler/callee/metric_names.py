"""Names of a callee's metrics: for Prometheus, for the Go package's variables, and for people."""

from __future__ import annotations

from juggler.process.metrics import Snapshot
from juggler.process.metrics.display_names import MetricNames

_BY_URI = ("uri",)

CALLEE = MetricNames(
    counters={
        "juggler_callee_requests": ("Calls taken from Redis.", _BY_URI),
        "juggler_callee_successes": ("Calls answered with a result.", _BY_URI),
        "juggler_callee_failures": ("Calls answered with an error.", _BY_URI),
        "juggler_callee_expiries": ("Calls whose caller had gone before they started or completed.", _BY_URI),
        "juggler_callee_calls_expired": ("Calls whose caller had gone before they were taken.", ()),
        "juggler_callee_calls_invalid": ("Malformed calls.", ()),
        "juggler_callee_calls_unchecked": ("Times that Redis could not be asked whether callers have gone.", ()),
        "juggler_callee_results_late": ("Results whose caller had gone.", ()),
    },
    gauges={
        "juggler_callee_running": ("Calls running.", _BY_URI),
        "juggler_callee_processes": ("Processes that these metrics cover.", ()),
        "juggler_callee_resident_memory_bytes": ("Resident memory of these processes.", ()),
    },
    histograms={
        "calls": ("juggler_callee_duration_seconds", "Time that the function ran."),
        "waits": ("juggler_callee_wait_seconds", "Time that the call was queued in Redis."),
    },
    variables={
        "Calls": [("juggler_callee_requests", None)],
        "ExpiredCalls": [("juggler_callee_calls_expired", None)],
        "FailedCallPayloadUnmarshals": [("juggler_callee_calls_invalid", None)],
        "FailedPTTLCalls": [("juggler_callee_calls_unchecked", None)],
    },
)

_GO_NAMES = {
    "requests": ("Requests", "Requests"),
    "successes": ("Succeeded", "Succeded"),  # as they are spelt there
    "failures": ("Failed", "Failed"),
    "expiries": ("Expired", "Expired"),
}
"""Variables of the Go package for all URIs, and before the URI, by count."""


def summary(snapshot: Snapshot) -> str:
    """Return the counts of all URIs together, in words."""
    sums = {name: int(sum(snapshot.counters.get(f"juggler_callee_{name}", {}).values())) for name in _GO_NAMES}
    return ", ".join(f"{number} {name}" for name, number in sums.items())


def callee_variables(snapshot: Snapshot) -> dict[str, int]:
    """Return the counts as the Go package's command ``juggler-callee`` has them under ``callee``: all, and by URI."""
    found = {}
    for name, (total, by_uri) in _GO_NAMES.items():
        counts = snapshot.counters.get(f"juggler_callee_{name}", {})
        found[total] = int(sum(counts.values()))
        found |= {f"{by_uri}.{uri}": int(count) for uri, count in counts.items()}
    return found
