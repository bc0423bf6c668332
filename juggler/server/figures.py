"""The metrics of one server and its brokers at one moment."""

from __future__ import annotations

from collections.abc import Iterable

from juggler.broker import Broker, BrokerStats
from juggler.process.metrics import Metrics, Snapshot
from juggler.process.process_memory import memory
from juggler.process.spare_greenlets import SpareGreenlets
from juggler.server.connection import Connection


def snapshot(
    connections: Iterable[Connection], brokers: Iterable[Broker], metrics: Metrics, greenlets: SpareGreenlets
) -> Snapshot:
    """Return the metrics of a server.

    Args:
        connections: its connections.
        brokers: its brokers, each once.
        metrics: its counters.
        greenlets: greenlets of its connections.
    """
    connections = list(connections)
    found = Snapshot(
        counters=metrics.counters() | {"juggler_connection_greenlets": {"": greenlets.started}},
        gauges={
            "juggler_connections": {"": len(connections)},
            "juggler_connection_greenlets_active": {"": greenlets.busy},
            "juggler_calls_in_flight": {"": sum(connection.calls_in_flight for connection in connections)},
            "juggler_outgoing_queue_bytes": {"": sum(c.websocket.queued_bytes for c in connections)},
            "juggler_waiting_responses": {"": sum(connection.waiting_responses for connection in connections)},
            "juggler_workers": {"": 1},
            "juggler_resident_memory_bytes": memory(),
        },
        highest={"juggler_loop_lag_seconds": {"": metrics.lag}},
        calls=metrics.calls,
    )
    for broker in brokers:
        _add_broker(found, broker.stats())
    return found


def _add_broker(found: Snapshot, stats: BrokerStats) -> None:
    for name, value in (
        ("juggler_calls_pushed", stats.calls),
        ("juggler_results_dropped", stats.dropped),
        ("juggler_results_invalid", stats.invalid_results),
        ("juggler_events_received", stats.events),
        ("juggler_events_invalid", stats.invalid_events),
        ("juggler_subscription_gaps", stats.gaps),
    ):
        labels = found.counters.setdefault(name, {"": 0})
        labels[""] += value
    for link, up in stats.links.items():
        states = found.lowest.setdefault("juggler_redis_up", {})
        states[link] = min(states.get(link, 1), int(up))
    for link, losses in stats.losses.items():
        reconnects = found.counters.setdefault("juggler_redis_reconnects", {})
        reconnects[link] = reconnects.get(link, 0) + losses
