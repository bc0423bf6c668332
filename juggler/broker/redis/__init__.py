"""The Redis broker: all three roles, with four connections in a server and three in a callee.

Each name is imported when it is first used: `juggler.backend` uses the pure modules of this package without gevent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from juggler.broker.redis.broker import DEFAULT_URL, RedisBroker, connect_or_wait
    from juggler.broker.redis.url import masked

__all__ = ["DEFAULT_URL", "RedisBroker", "connect_or_wait", "masked"]

_HOMES = {
    "DEFAULT_URL": "juggler.broker.redis.broker",
    "RedisBroker": "juggler.broker.redis.broker",
    "connect_or_wait": "juggler.broker.redis.broker",
    "masked": "juggler.broker.redis.url",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
