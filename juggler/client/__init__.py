"""Clients of a juggler server: `Client` blocks, for threads and greenlets; `AsyncClient` is for asyncio.

Both have the same names and the same behaviour, since a pure core makes all decisions: `juggler.client.state` with its
`juggler.client.bookkeeping` of requests and subscriptions, and `juggler.client.reconnect`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from juggler.client.blocking import Client, Pending, Stream, Subscription
from juggler.client.events import Event
from juggler.client.state import State

if TYPE_CHECKING:
    from juggler.client.aio import AsyncClient, AsyncStream, AsyncSubscription

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "AsyncSubscription",
    "Client",
    "Event",
    "Pending",
    "State",
    "Stream",
    "Subscription",
]


def __getattr__(name: str) -> Any:
    # Importing asyncio is slow, and most programs do not need it.
    if name in ("AsyncClient", "AsyncStream", "AsyncSubscription"):
        from juggler.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
