"""Registered functions, and the fleet, as one server knows them: cached, without a round trip for each call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import gevent
import msgspec
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore

from juggler.broker import CallerBroker
from juggler.broker.overview import overview

PERIOD = 1.0
"""Seconds between two checks of the known URIs."""

MAX_KNOWN_URIS = 10_000
"""URIs that are cached; others are looked up for each call."""

ANSWER_TIMEOUT = 5.0
LIST_LIFETIME = 1.0
_CHUNK = 1000


class _Cached:
    """The JSON text of a value, at most a second old."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._asking = BoundedSemaphore()
        self._text = b""
        self._until = 0.0

    def text(self) -> bytes:
        with self._asking:
            if time.monotonic() >= self._until:
                self._text = msgspec.json.encode(self._ask())
                self._until = time.monotonic() + LIST_LIFETIME
            return self._text


class Catalogue:
    """Registered functions and the fleet. Greenlets may share it.

    Attributes:
        known: URIs known to be served.
    """

    def __init__(self, broker: CallerBroker) -> None:
        self.known: set[str] = set()
        self._broker = broker
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._functions = _Cached(broker.functions)
        self._fleet = _Cached(lambda: overview(broker))

    def is_served(self, uri: str) -> bool:
        """Return whether a callee serves a URI; in doubt, as when Redis is unreachable, True.

        Blocks for at most `ANSWER_TIMEOUT` if the URI is not known.
        """
        if uri in self.known:
            return True
        answer: AsyncResult = AsyncResult()
        self._broker.ask_served([uri], answer.set)
        try:
            served: Mapping[str, bool] | None = answer.get(timeout=ANSWER_TIMEOUT)
        except gevent.Timeout:
            return True
        if served is None:
            return True
        if served[uri] and len(self.known) < MAX_KNOWN_URIS:
            self.known.add(uri)
            if self._greenlet is None:
                self._greenlet = gevent.spawn(self._refresh)
                self._greenlet.name = "juggler-catalogue"
        return served[uri]

    def text(self) -> bytes:
        """Return the catalogue as a JSON array of `juggler.broker.ServedFunction`, at most a second old.

        Raises:
            BrokerError: it is not available now.
        """
        return self._functions.text()

    def fleet(self) -> bytes:
        """Return a `juggler.broker.overview.Overview` as JSON, at most a second old.

        Raises:
            BrokerError: it is not available now.
        """
        return self._fleet.text()

    def close(self) -> None:
        """Stop refreshing. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def _refresh(self) -> None:
        while True:
            gevent.sleep(PERIOD)
            uris = iter(tuple(self.known))
            while chunk := list(islice(uris, _CHUNK)):
                self._broker.ask_served(chunk, self._on_served)

    def _on_served(self, served: Mapping[str, bool] | None) -> None:
        if served is not None:
            self.known.difference_update(uri for uri, is_served in served.items() if not is_served)
