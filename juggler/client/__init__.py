"""Clients of a juggler server: `Client` blocks, for threads and greenlets; `AsyncClient` is for asyncio.

Both have the same names and the same rules, and share what does no I/O: `juggler.client.state` says what messages mean,
`juggler.client.events` keeps events for their readers, `juggler.client.reconnect` says which ends have a new beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from juggler.client.blocking import Client, Pending, Subscription
from juggler.client.events import Event
from juggler.client.state import State

if TYPE_CHECKING:
    from juggler.client.aio import AsyncClient, AsyncSubscription

__all__ = ["AsyncClient", "AsyncSubscription", "Client", "Event", "Pending", "State", "Subscription"]


def __getattr__(name: str) -> Any:
    # asyncio takes its time to be imported, and most programs have no use for it.
    if name in ("AsyncClient", "AsyncSubscription"):
        from juggler.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
