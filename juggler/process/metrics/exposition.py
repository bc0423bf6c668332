"""How a snapshot is told: as text for Prometheus, and as the Go package's variables. The one user of its library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from juggler.process.metrics import BUCKETS, TYPES, Snapshot
from juggler.process.metrics.rates import Samples

CONTENT_TYPE = CONTENT_TYPE_LATEST

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "juggler_messages": ("Messages.", ("direction", "type")),
    "juggler_invalid_messages": ("What came in and was no message that is allowed.", ()),
    "juggler_slow_messages": ("Messages whose processing took over 100 ms.", ("type",)),
    "juggler_nacks": ("NACKs sent.", ("code",)),
    "juggler_closes": ("Connections that have ended.", ("code",)),
    "juggler_refused": ("Handshakes refused.", ("status",)),
    "juggler_connections_opened": ("Connections made.", ()),
    "juggler_connection_greenlets": ("Greenlets made for connections.", ()),
    "juggler_handler_errors": ("Failures of the handler.", ()),
    "juggler_write_limit_exceeded": ("Messages over the write limit.", ()),
    "juggler_calls_expired": ("Calls whose time was over before a result came.", ()),
    "juggler_calls_pushed": ("Calls given to the broker.", ()),
    "juggler_results_dropped": ("Results that nobody waited for.", ()),
    "juggler_results_invalid": ("Results that are none.", ()),
    "juggler_events_received": ("Events from the broker.", ()),
    "juggler_events_invalid": ("Publications that are no events.", ()),
    "juggler_subscription_gaps": ("Times that events may have been lost.", ()),
    "juggler_redis_reconnects": ("Connections to Redis that were lost.", ("link",)),
}
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "juggler_connections": ("Connections now.", ()),
    "juggler_connection_greenlets_active": ("Greenlets of connections now.", ()),
    "juggler_calls_in_flight": ("Calls that await their result.", ()),
    "juggler_outgoing_queue_bytes": ("Bytes that wait for clients to read.", ()),
    "juggler_waiting_responses": ("Responses that wait for a handler.", ()),
    "juggler_workers": ("Processes that these figures are of.", ()),
    "juggler_loop_lag_seconds": ("Largest lateness of the event loop in the last 10 s.", ()),
    "juggler_queue_length": ("Calls that wait for a callee.", ("uri",)),
    "juggler_redis_up": ("Whether the link to Redis is up.", ("link",)),
}
HISTOGRAMS = {"calls": ("juggler_call_duration_seconds", "From CALL to RES.")}


class Words(NamedTuple):
    """What the figures of a snapshot are called: for each a text, and the names of its labels."""

    counters: Mapping[str, tuple[str, tuple[str, ...]]]
    gauges: Mapping[str, tuple[str, tuple[str, ...]]]
    histograms: Mapping[str, tuple[str, str]]


SERVER = Words(COUNTERS, GAUGES, HISTOGRAMS)

# Prometheus's name for what has the usual one: juggler_connections is a gauge as well.
_RENAMED = {"juggler_connections_opened": "juggler_connections"}


class _Snapshots(Collector):
    def __init__(self, snapshot: Snapshot, words: Words) -> None:
        self._snapshot = snapshot
        self._words = words

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        for name, (text, labels) in self._words.counters.items():
            counter = CounterMetricFamily(_RENAMED.get(name, name), text, labels=labels)
            for label, value in snapshot.counters.get(name, {}).items():
                counter.add_metric(label.split(",", len(labels) - 1) if labels else [], value)
            yield counter
        gauges = snapshot.gauges | snapshot.highest | snapshot.lowest
        for name, (text, labels) in self._words.gauges.items():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for label, value in gauges.get(name, {}).items():
                gauge.add_metric([label] if labels else [], value)
            yield gauge
        for field, (name, text) in self._words.histograms.items():
            family = HistogramMetricFamily(name, text, labels=["uri"])
            for uri, histogram in getattr(snapshot, field).items():
                so_far, buckets = 0, []
                for bound, count in zip([*map(str, BUCKETS), "+Inf"], histogram.counts, strict=True):
                    so_far += count
                    buckets.append((bound, so_far))
                family.add_metric([uri], buckets, histogram.total_seconds)
            yield family


def prometheus(snapshot: Snapshot, words: Words = SERVER) -> bytes:
    """Return the snapshot in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshots(snapshot, words))
    return generate_latest(registry)


def parse(text: str) -> Samples:
    """Return what a text in Prometheus's format says.

    Raises:
        ValueError: it is none.
    """
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def go_variables(snapshot: Snapshot) -> dict[str, int]:
    """Return the snapshot under the names that the Go package gives to its variables."""

    def of(name: str, label: str = "") -> int:
        return int((snapshot.counters.get(name) or snapshot.gauges.get(name) or {}).get(label, 0))

    def by_type(name: str) -> int:
        return of("juggler_messages", f"in,{name}") + of("juggler_messages", f"out,{name}")

    read = sum(of("juggler_messages", f"in,{t.name}") for t in TYPES)
    written = sum(of("juggler_messages", f"out,{t.name}") for t in TYPES)
    unknown = of("juggler_invalid_messages")
    return {
        "Msgs": read + written + unknown,
        "MsgsRead": read + unknown,
        "MsgsWrite": written,
        **{f"Msgs{t.name}": by_type(t.name) for t in TYPES},
        "MsgsUnknown": unknown,
        "SlowProcessMsg": sum(of("juggler_slow_messages", t.name) for t in TYPES),
        **{f"SlowProcessMsg{t.name}": of("juggler_slow_messages", t.name) for t in TYPES},
        "ActiveConns": of("juggler_connections"),
        "TotalConns": of("juggler_connections_opened"),
        "ActiveConnGoros": of("juggler_connection_greenlets_active"),
        "TotalConnGoros": of("juggler_connection_greenlets"),
        "RecoveredPanics": of("juggler_handler_errors"),
        "WriteLockTimeouts": of("juggler_closes", "4429"),
        "WriteLimitExceeded": of("juggler_write_limit_exceeded"),
        "Calls": of("juggler_calls_pushed"),
        "ExpiredCalls": of("juggler_calls_expired"),
        "FailedCallPayloadUnmarshals": 0,
        "FailedPTTLCalls": 0,
        "Results": sum(sum(histogram.counts) for histogram in snapshot.calls.values()),
        "ExpiredResults": of("juggler_results_dropped"),
        "FailedResPayloadUnmarshals": of("juggler_results_invalid"),
        "FailedPTTLResults": 0,
        "Events": of("juggler_events_received"),
        "FailedEvntPayloadUnmarshals": of("juggler_events_invalid"),
    }
