"""Rates and quantiles between two scrapes of a server. PURE: no I/O, no clock."""

from __future__ import annotations

from typing import TypeAlias

Samples: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by metric and labels."""

DURATION = "juggler_call_duration_seconds"


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of all samples of a metric that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= set(has))


def rate(before: Samples, after: Samples, seconds: float, name: str, **labels: str) -> float:
    """Return by how much a counter grew per second. A counter that was reset grew from zero."""
    now = total(after, name, **labels)
    then = total(before, name, **labels)
    return (now - then if now >= then else now) / seconds


def uris(samples: Samples) -> list[str]:
    """Return the URIs that have durations, sorted."""
    return sorted({dict(labels)["uri"] for name, labels in samples if name == f"{DURATION}_count"})


def quantile(before: Samples, after: Samples, uri: str, part: float) -> float | None:
    """Return a quantile of the durations of calls between two scrapes, in seconds; None without calls.

    It is interpolated between the bounds of a bucket. Beyond the last bound, it is that bound.
    """
    grown = _grown(before, after, uri)
    count = grown[-1][1] if grown else 0.0
    if count <= 0:
        return None
    below, counted = 0.0, 0.0
    for bound, value in grown:
        if value >= part * count:
            if bound == float("inf"):
                return below
            share = (part * count - counted) / (value - counted) if value > counted else 1.0
            return below + (bound - below) * share
        below, counted = bound, value
    return below


def _grown(before: Samples, after: Samples, uri: str) -> list[tuple[float, float]]:
    grown = []
    for (name, labels), value in after.items():
        has = dict(labels)
        if name == f"{DURATION}_bucket" and has["uri"] == uri:
            grown.append((float(has["le"]), value - before.get((name, labels), 0.0)))
    return sorted(grown)
