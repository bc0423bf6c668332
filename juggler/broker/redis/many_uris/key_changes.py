"""A connection that receives the keys that have changed, once another connection asks Redis to report them here.

It is a subscriber: Redis limits what it buffers for one, and disconnects it if it does not read.
"""

from __future__ import annotations

from collections.abc import Callable

import hiredis

from juggler.broker.redis.commands import PING, pack
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.persistent_connection import PersistentConnection, ReplyHandler
from juggler.broker.redis.replies import Reply, is_not_master
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.uuids import new_uuid

CHANNEL = b"__redis__:invalidate"

PROOF_LIFETIME_MS = 5000
"""Milliseconds for which the proof key exists."""


class KeyChanges(ReplyHandler):
    """Receives the names of changed keys.

    Attributes:
        connection: the connection.
        client_id: Redis's identifier of the connection; ``None`` until it can receive reports.
        proof: a key created on this connection. A connection that finds it leads to the same server.
        refusal: the error with which Redis refuses; ``None`` if it does not.
        on_state: called when reports can arrive, can no longer arrive, or are refused.
        on_changed: called with the names of changed keys.
    """

    def __init__(self, connector: Connector, watchdog: Watchdog, proof_prefix: bytes) -> None:
        """Create it unconnected; ``proof_prefix`` is that of ``proof``."""
        self.connection = PersistentConnection("changes", connector, watchdog, self)
        self.client_id: int | None = None
        self.proof = b""
        self.refusal: hiredis.ReplyError | None = None
        self.on_state: Callable[[], None] = _ignore
        self.on_changed: Callable[[list[bytes]], None] = _ignore
        self._proof_prefix = proof_prefix
        self._own_id: int | None = None
        self._due = False

    @property
    def reply_due(self) -> bool:
        return self._due

    def ping(self) -> None:
        self._due = True
        self.connection.write(PING)

    def on_up(self) -> None:
        self._due = True
        self.proof = self._proof_prefix + new_uuid().encode()
        self.connection.write(
            pack(b"CLIENT", b"ID") + pack(b"SET", self.proof, 1, b"PX", PROOF_LIFETIME_MS) + pack(b"SUBSCRIBE", CHANNEL)
        )

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            # After FLUSHALL there is no list. A string was published on the channel by another client.
            if isinstance(reply[2], list):
                self.on_changed(reply[2])
            return
        self._due = False
        if isinstance(reply, hiredis.ReplyError):
            if is_not_master(reply):
                raise ConnectionError(str(reply))
            self.refusal = reply
            self.on_state()
        elif isinstance(reply, int):
            self._own_id = reply
        elif isinstance(reply, list) and reply[0] == b"subscribe" and self.refusal is None:
            self.client_id = self._own_id
            self.on_state()

    def on_lost(self, error: BrokerUnavailable) -> None:
        self.client_id = self._own_id = self.refusal = None
        self.on_state()


def _ignore(*_: object) -> None:
    """Stand in until there is a listener."""
