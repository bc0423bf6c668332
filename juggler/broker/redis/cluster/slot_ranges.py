"""Read the reply of ``CLUSTER SLOTS``: which nodes have which slots."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from redis.cluster import parse_cluster_slots

from juggler.broker.redis.replies import Reply

Address: TypeAlias = tuple[str, int]
"""Host and port of a node, as in the replies of the cluster."""


class SlotRange(NamedTuple):
    """Slots from ``start`` to ``end``, both included, and their nodes."""

    start: int
    end: int
    master: Address
    replicas: list[Address]


def parse_slots(reply: Reply, asked_host: str) -> list[SlotRange]:
    """Return the ranges. A node without a host in the reply is the one that was asked."""
    parsed: Any = parse_cluster_slots(reply, current_host=asked_host)
    return [SlotRange(start, end, nodes["primary"], nodes["replicas"]) for (start, end), nodes in parsed.items()]
