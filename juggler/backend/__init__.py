"""Publish and call from ordinary programs: a Flask or Django view, a cron job, a Celery task. Without gevent.

`Backend` blocks, for threads and, under gevent's monkey-patching, for greenlets; `AsyncBackend` is for asyncio. Both
talk to Redis directly, as servers do, and have the same names and behaviour: `juggler.backend.operations` and
`juggler.backend.routing` make all decisions. Importing them starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from juggler.backend.async_backend import AsyncBackend
    from juggler.backend.backend import Backend

__all__ = ["AsyncBackend", "Backend"]

_HOMES = {
    "AsyncBackend": "juggler.backend.async_backend",
    "Backend": "juggler.backend.backend",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            from juggler.process.extras import advice

            if (text := advice(error, "backend")) is None:
                raise
            raise ImportError(f"juggler.backend.{name}: {text}", name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
