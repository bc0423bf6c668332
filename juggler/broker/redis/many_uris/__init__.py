"""Serving very many URIs: client tracking reports which queues have calls, so that pops need not name them all.

`make_source` is the entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from juggler.broker.redis.call_source import CallSource, PopLink
from juggler.broker.redis.link import Connector
from juggler.broker.redis.many_uris.pending_queues import PendingQueues
from juggler.broker.redis.many_uris.tracked_source import TrackedSource
from juggler.broker.redis.many_uris.tracking import Tracking
from juggler.broker.redis.watchdog import Watchdog


def make_source(
    link: PopLink, connector: Connector, watchdog: Watchdog, queues: Sequence[bytes], proof_prefix: bytes
) -> CallSource:
    """Return a source of the calls in very many queues.

    Args:
        link: pops.
        connector: makes the connection that receives the names of changed keys.
        watchdog: checks that connection.
        queues: keys of the lists of calls.
        proof_prefix: prefix of a key that proves that both connections lead to the same server.
    """
    pending = PendingQueues(queues)
    tracking = Tracking(link, connector, watchdog, queues, pending, proof_prefix)
    return TrackedSource(link, queues, pending, tracking)
