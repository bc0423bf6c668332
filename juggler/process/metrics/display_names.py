"""Names of the metrics in a snapshot, where they are shown. Without prometheus_client, which takes long to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Described: TypeAlias = Mapping[str, tuple[str, tuple[str, ...]]]
Sums: TypeAlias = Sequence[tuple[str, str | None]]


class MetricNames(NamedTuple):
    """Names and help texts of the metrics in a snapshot.

    Attributes:
        counters: help text and names of labels, by metric.
        gauges: the same.
        histograms: metric and help text, by attribute of `Snapshot`.
        variables: what the Go package's variables are the sums of: metrics and values of their label, None for all.
    """

    counters: Described
    gauges: Described
    histograms: Mapping[str, tuple[str, str]]
    variables: Mapping[str, Sums]
