"""A connection that is told which keys have changed, once another one asks Redis to send the names here.

It is a subscriber, so that Redis keeps no more for it than it may for such, and cuts it off if it does not read.
"""

from __future__ import annotations

from collections.abc import Callable

import hiredis

from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import NO_MASTER, BaseLink, Connector, Reply
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.uuids import new_uuid

CHANNEL = b"__redis__:invalidate"

PROOF_LIFETIME = 5000
"""Milliseconds for which a connection's key is there."""


class KeyChanges(BaseLink):
    """Receives the names.

    Attributes:
        client_id: what Redis calls this connection; ``None`` until it can receive names.
        proof: a key that this connection has made: whoever finds it speaks with the same server.
        refusal: what Redis says that does not let us.
    """

    def __init__(
        self,
        connector: Connector,
        watchdog: Watchdog,
        prefix: bytes,
        *,
        on_turn: Callable[[], None],
        on_changed: Callable[[list[bytes]], None],
    ) -> None:
        """Make a link that is not connected yet.

        Args:
            connector: makes the connection.
            watchdog: looks after it.
            prefix: what ``proof`` begins with.
            on_turn: called when names can come, can come no more, or are refused.
            on_changed: told the names.
        """
        super().__init__("changes", connector, watchdog)
        self.client_id: int | None = None
        self.proof = b""
        self.refusal: hiredis.ReplyError | None = None
        self._prefix = prefix
        self._on_turn = on_turn
        self._on_changed = on_changed
        self._own_id: int | None = None
        self._due = False

    @property
    def reply_due(self) -> bool:
        return self._due

    def ping(self) -> None:
        self._due = True
        self.write(b"*1\r\n$4\r\nPING\r\n")

    def on_up(self) -> None:
        self._due = True
        self.proof = self._prefix + new_uuid().encode()
        self.write(
            pack(b"CLIENT", b"ID") + pack(b"SET", self.proof, 1, b"PX", PROOF_LIFETIME) + pack(b"SUBSCRIBE", CHANNEL)
        )

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            # No names come when all keys have gone; and what is no list was published by somebody.
            if isinstance(reply[2], list):
                self._on_changed(reply[2])
            return
        self._due = False
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith(NO_MASTER):
                raise ConnectionError(str(reply))
            self.refusal = reply
            self._on_turn()
        elif isinstance(reply, int):
            self._own_id = reply
        elif isinstance(reply, list) and reply[0] == b"subscribe" and self.refusal is None:
            self.client_id = self._own_id
            self._on_turn()

    def on_lost(self, error: BrokerUnavailable) -> None:
        self.client_id = self._own_id = self.refusal = None
        self._on_turn()
