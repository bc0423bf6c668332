"""Which URIs callees serve, as far as one server knows: asked once, kept up to date, no round trip for a call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice

import gevent
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore

from juggler.broker import CallerBroker
from juggler.protocol.codec import encode_args

PERIOD = 1.0
"""Seconds between two looks at the URIs that are known."""

MOST_URIS = 10_000
"""URIs that are kept; those beyond are asked about with each call."""

ANSWER_TIMEOUT = 5.0
LIST_LIFETIME = 1.0
_CHUNK = 1000


class ServedUris:
    """The URIs that are served. In doubt, as when Redis is away, a URI counts as served.

    Attributes:
        known: those of which it is known. Callees may have come since for others.
    """

    def __init__(self, broker: CallerBroker) -> None:
        self.known: set[str] = set()
        self._broker = broker
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def is_served(self, uri: str) -> bool:
        """Ask about a URI that is not `known`; the greenlet waits for the answer."""
        told: AsyncResult = AsyncResult()
        self._broker.ask_served([uri], told.set)
        try:
            served: Mapping[str, bool] | None = told.get(timeout=ANSWER_TIMEOUT)
        except gevent.Timeout:
            return True
        if served is None:
            return True
        if served[uri] and len(self.known) < MOST_URIS:
            self.known.add(uri)
            if self._greenlet is None:
                self._greenlet = gevent.spawn(self._keep_up)
                self._greenlet.name = "juggler-served-uris"
        return served[uri]

    def close(self) -> None:
        """Ask no more. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def _keep_up(self) -> None:
        while True:
            gevent.sleep(PERIOD)
            uris = iter(tuple(self.known))
            while chunk := list(islice(uris, _CHUNK)):
                self._broker.ask_served(chunk, self._on_served)

    def _on_served(self, served: Mapping[str, bool] | None) -> None:
        if served is not None:
            self.known.difference_update(uri for uri, is_served in served.items() if not is_served)


class Directory:
    """The list of what is served, as JSON; asked for at most once a second, however many want it."""

    def __init__(self, broker: CallerBroker) -> None:
        self._broker = broker
        self._asking = BoundedSemaphore()
        self._text = b"[]"
        self._until = 0.0

    def text(self) -> bytes:
        """Return an array of objects, see `juggler.broker.ServedFunction`.

        Raises:
            BrokerError: it cannot be told now.
        """
        with self._asking:
            if time.monotonic() >= self._until:
                self._text = encode_args(self._broker.functions())
                self._until = time.monotonic() + LIST_LIFETIME
            return self._text
