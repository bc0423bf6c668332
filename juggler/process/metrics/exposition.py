"""Format a snapshot: for Prometheus, and as the Go package's variables. Only this file uses prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator

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
from juggler.process.metrics.display_names import MetricNames, Sums
from juggler.process.metrics.rates import Samples

CONTENT_TYPE = CONTENT_TYPE_LATEST

_GO_TYPES = [type for type in TYPES if 1 <= type <= 10]
_READ: Sums = [("juggler_messages", f"in,{type.name}") for type in TYPES if type.is_request]
_WRITTEN: Sums = [("juggler_messages", f"out,{type.name}") for type in TYPES if type.is_response]
_INVALID: Sums = [("juggler_invalid_messages", None)]

SERVER = MetricNames(
    counters={
        "juggler_messages": ("Messages.", ("direction", "type")),
        "juggler_invalid_messages": ("Malformed messages, and messages that are not allowed.", ()),
        "juggler_slow_messages": (
            "Messages that took longer to process than the slow threshold of the server.",
            ("type",),
        ),
        "juggler_nacks": ("NACKs sent.", ("code",)),
        "juggler_closes": ("Connections closed.", ("code",)),
        "juggler_refused": ("Handshakes refused.", ("status",)),
        "juggler_connections_opened": ("Connections opened.", ()),
        "juggler_connection_greenlets": ("Greenlets started for connections.", ()),
        "juggler_handler_errors": ("Exceptions raised by the handler.", ()),
        "juggler_write_limit_exceeded": ("Messages over the write limit.", ()),
        "juggler_calls_expired": ("Calls that expired before their result arrived.", ()),
        "juggler_calls_cancelled": ("Calls that clients cancelled.", ()),
        "juggler_connection_events": ("Connects and disconnects queued for the application.", ()),
        "juggler_connection_events_lost": ("Those that were not queued, or not processed in time.", ()),
        "juggler_calls_pushed": ("Calls queued in the broker.", ()),
        "juggler_results_dropped": ("Results whose caller has gone.", ()),
        "juggler_results_invalid": ("Malformed results.", ()),
        "juggler_events_received": ("Events received from the broker.", ()),
        "juggler_events_invalid": ("Malformed events.", ()),
        "juggler_subscription_gaps": ("Times that events may have been lost.", ()),
        "juggler_redis_reconnects": ("Connections to Redis lost.", ("link",)),
    },
    gauges={
        "juggler_connections": ("Open connections.", ()),
        "juggler_connection_greenlets_active": ("Greenlets that process messages of connections.", ()),
        "juggler_calls_in_flight": ("Calls in flight.", ()),
        "juggler_outgoing_queue_bytes": ("Bytes queued for clients.", ()),
        "juggler_waiting_responses": ("Responses waiting for the handler.", ()),
        "juggler_workers": ("Processes that these metrics cover.", ()),
        "juggler_resident_memory_bytes": ("Resident memory of these processes.", ()),
        "juggler_loop_lag_seconds": ("Maximum event loop lag in the last 10 s.", ()),
        "juggler_queue_length": ("Calls queued for callees.", ("uri",)),
        "juggler_redis_up": ("1 if the link to Redis is connected, otherwise 0.", ("link",)),
    },
    histograms={"calls": ("juggler_call_duration_seconds", "Time from CALL to RES.")},
    variables={
        "Msgs": [*_READ, *_WRITTEN, *_INVALID],
        "MsgsRead": [*_READ, *_INVALID],
        "MsgsWrite": _WRITTEN,
        **{
            f"Msgs{type.name}": [("juggler_messages", f"{way},{type.name}") for way in ("in", "out")]
            for type in _GO_TYPES
        },
        "MsgsUnknown": _INVALID,
        "SlowProcessMsg": [("juggler_slow_messages", None)],
        **{f"SlowProcessMsg{type.name}": [("juggler_slow_messages", type.name)] for type in _GO_TYPES},
        "ActiveConns": [("juggler_connections", None)],
        "TotalConns": [("juggler_connections_opened", None)],
        "ActiveConnGoros": [("juggler_connection_greenlets_active", None)],
        "TotalConnGoros": [("juggler_connection_greenlets", None)],
        "RecoveredPanics": [("juggler_handler_errors", None)],
        "WriteLockTimeouts": [("juggler_closes", "4429")],
        "WriteLimitExceeded": [("juggler_write_limit_exceeded", None)],
        "Calls": [("juggler_calls_pushed", None)],
        "ExpiredCalls": [("juggler_calls_expired", None)],
        "FailedCallPayloadUnmarshals": [],
        "FailedPTTLCalls": [],
        "Results": [("juggler_call_duration_seconds", None)],
        "ExpiredResults": [("juggler_results_dropped", None)],
        "FailedResPayloadUnmarshals": [("juggler_results_invalid", None)],
        "FailedPTTLResults": [],
        "Events": [("juggler_events_received", None)],
        "FailedEvntPayloadUnmarshals": [("juggler_events_invalid", None)],
    },
)

# Prometheus adds _total to the name of a counter, so that it does not collide with the gauge juggler_connections.
_RENAMED = {"juggler_connections_opened": "juggler_connections"}


class _Snapshots(Collector):
    def __init__(self, snapshot: Snapshot, names: MetricNames) -> None:
        self._snapshot = snapshot
        self._names = names

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        for name, (text, labels) in self._names.counters.items():
            counter = CounterMetricFamily(_RENAMED.get(name, name), text, labels=labels)
            for label, value in snapshot.counters.get(name, {}).items():
                counter.add_metric(label.split(",", len(labels) - 1) if labels else [], value)
            yield counter
        gauges = snapshot.gauges | snapshot.highest | snapshot.lowest
        for name, (text, labels) in self._names.gauges.items():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for label, value in gauges.get(name, {}).items():
                gauge.add_metric([label] if labels else [], value)
            yield gauge
        for field, (name, text) in self._names.histograms.items():
            family = HistogramMetricFamily(name, text, labels=["uri"])
            for uri, histogram in getattr(snapshot, field).items():
                so_far, buckets = 0, []
                for bound, count in zip([*map(str, BUCKETS), "+Inf"], histogram.counts, strict=True):
                    so_far += count
                    buckets.append((bound, so_far))
                family.add_metric([uri], buckets, histogram.total_seconds)
            yield family


def prometheus(snapshot: Snapshot, names: MetricNames = SERVER) -> bytes:
    """Return the snapshot in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshots(snapshot, names))
    return generate_latest(registry)


def parse(text: str) -> Samples:
    """Parse Prometheus's text format.

    Raises:
        ValueError: the text is malformed.
    """
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def go_variables(snapshot: Snapshot, names: MetricNames = SERVER) -> dict[str, int]:
    """Return the snapshot as the Go package's variables."""
    values = snapshot.gauges | snapshot.counters
    for field, (name, _) in names.histograms.items():
        values[name] = {uri: sum(histogram.counts) for uri, histogram in getattr(snapshot, field).items()}

    def value(name: str, label: str | None) -> float:
        labels = values.get(name, {})
        return sum(labels.values()) if label is None else labels.get(label, 0)

    return {variable: int(sum(value(*each) for each in sums)) for variable, sums in names.variables.items()}
