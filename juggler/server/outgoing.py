"""The write path of one server: from a response to its text on a websocket, with the size limit and the counters."""

from __future__ import annotations

import logging

from juggler.broker import Event
from juggler.errors import NackCode
from juggler.process.logline import Line
from juggler.process.metrics import Metrics
from juggler.process.uuids import new_uuid
from juggler.protocol import codec
from juggler.protocol.messages import UNANSWERED, Evnt, Message, MessageType, Nack, is_nackable, nack, type_name
from juggler.server.options import ServerOptions
from juggler.server.websocket import SharedText, WebSocket

log = logging.getLogger("juggler.connection")


class Outgoing:
    """Writes the responses of one server: text, size limit, counters. All its connections share it.

    Attributes:
        event: the event that was delivered last.
        text: the EVNT of this event, or the NACK in its place, framed once for all subscribers.
        type: type of ``text``.
        is_refused: whether ``text`` is the NACK.
        written: counters of the responses, by type.
    """

    __slots__ = ("_answer_limit", "_metrics", "_write_limit", "event", "is_refused", "text", "type", "written")

    def __init__(self, options: ServerOptions, metrics: Metrics) -> None:
        self._write_limit = options.write_limit
        self._answer_limit = options.answer_limit
        self._metrics = metrics
        self.event: Event | None = None
        self.text = SharedText(b"")
        self.type = int(MessageType.EVNT)
        self.is_refused = False
        self.written = metrics.written

    def write(self, websocket: WebSocket, response: Message) -> None:
        """Put a response on a websocket, or a NACK that refers to the request if the response is too large.

        Responses that belong to no request are small, and always sent. One of a registered type that is too large is
        dropped: no NACK can refer to it.
        """
        # Events arrive unasked for; answers may arrive faster than the client reads them.
        extra = 0 if type(response) is Evnt else self._answer_limit
        text = codec.encode(response, new_uuid())
        if self._write_limit is not None and len(text) > self._write_limit and response.type not in UNANSWERED:
            if not is_nackable(response):
                self._drop(response, len(text))
                return
            response, text = self._too_large(response, len(text))
        if websocket.send(text, extra):
            self.written[response.type] += 1
            if type(response) is Nack:
                self._metrics.nacks[response.code] += 1

    def load(self, event: Event) -> None:
        """Make ``text`` the EVNT of an event, or the NACK that takes its place."""
        response: Evnt | Nack = event_message(event)
        text = codec.encode(response, new_uuid())
        if self._write_limit is not None and len(text) > self._write_limit:
            response, text = self._too_large(response, len(text))
        self.text = SharedText(text)
        self.type = int(response.type)  # an index is quicker than a member of an enum
        self.is_refused = type(response) is Nack
        self.event = event

    def _drop(self, response: Message, size: int) -> None:
        self._metrics.write_limit_exceeded += 1
        log.error(Line("connection: response over the write limit dropped", type=type_name(response), size=size))

    def _too_large(self, response: Message, size: int) -> tuple[Nack, bytes]:
        self._metrics.write_limit_exceeded += 1
        reason = f"the {response.type.name} has {size} bytes, the limit is {self._write_limit}"
        refusal = nack(response, NackCode.TOO_LARGE, reason)
        return refusal, codec.encode(refusal, new_uuid())


def event_message(event: Event) -> Evnt:
    """Return the EVNT of an event."""
    return Evnt(for_=event.uuid, channel=event.channel, pattern=event.pattern, args=event.args, trace=event.trace)
