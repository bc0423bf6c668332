"""One CALL on the server: the object through which its ACK and its result come up from the broker."""

from __future__ import annotations

import time

from juggler.broker import PendingCall
from juggler.errors import BrokerError
from juggler.protocol.messages import Ack, Call, MessageType, Nack, Res
from juggler.server.connection import Connection


class ServerCall(PendingCall):
    """A CALL in flight. Its owner is the connection, which abandons it when it closes.

    It keeps the UUID and URI of the message, not the arguments, which may be large and now belong to the broker.
    """

    __slots__ = ("_began", "_connection", "_uuid")

    def __init__(self, connection: Connection, message: Call) -> None:
        super().__init__(connection)
        self._connection = connection
        self._uuid = message.uuid
        self.uri = message.uri
        self._began = time.monotonic()

    def on_stored(self, error: BrokerError | None) -> None:
        if error is None:
            self._connection.answer(Ack(for_=self._uuid, for_type=MessageType.CALL, uri=self.uri))
        else:
            self._connection.answer(
                Nack(for_=self._uuid, for_type=MessageType.CALL, uri=self.uri, code=error.code, message=error.reason)
            )

    def on_result(self, args: bytes, failed: bool | None) -> None:
        self._connection.metrics.observe_call(self.uri, time.monotonic() - self._began)
        self._connection.respond(Res(for_=self._uuid, uri=self.uri, args=args, failed=failed))

    def on_expired(self) -> None:
        self._connection.metrics.expired += 1
