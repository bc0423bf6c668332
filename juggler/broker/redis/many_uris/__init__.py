"""Serving very many URIs: client tracking reports which queues have calls, so that pops need not name them all."""

from __future__ import annotations

from collections.abc import Sequence

from juggler.broker.redis.call_source import CallSource
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.many_uris.key_changes import KeyChanges
from juggler.broker.redis.many_uris.pending_queues import PendingQueues
from juggler.broker.redis.many_uris.tracked_source import TrackedSource
from juggler.broker.redis.many_uris.tracking import Tracking
from juggler.broker.redis.popper import Popper
from juggler.broker.redis.watchdog import Watchdog


def make_source(
    popper: Popper, queues: Sequence[bytes], connector: Connector, watchdog: Watchdog, proof_prefix: bytes
) -> CallSource:
    """Return a source of the calls in very many queues.

    Args:
        popper: pops from the queues.
        queues: keys of the lists of calls.
        connector: makes the connection that receives reports.
        watchdog: checks that connection.
        proof_prefix: prefix of a key that proves that both connections lead to the same server.
    """
    pending = PendingQueues(queues)
    changes = KeyChanges(connector, watchdog, proof_prefix)
    return TrackedSource(popper, queues, pending, Tracking(popper.link, queues, pending, changes))
