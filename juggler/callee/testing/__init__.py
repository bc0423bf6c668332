"""Test kit for callees: `Caller` runs functions in place, stacks add a server and a client.

`Caller` needs neither Redis nor a server. `memory_stack` and `redis_stack` are complete deployments on loopback. The
pytest fixtures ``juggler_memory`` and ``juggler_redis`` start them. Names are imported when first used, so that
the pytest plugin does not import gevent in projects that do not use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from juggler.callee.testing.inline_caller import Caller, Published
    from juggler.callee.testing.inline_stream import Stream
    from juggler.callee.testing.stacks import Stack, memory_stack, redis_stack

__all__ = ["Caller", "Published", "Stack", "Stream", "memory_stack", "redis_stack"]

_HOMES = {
    "Caller": "inline_caller",
    "Published": "inline_caller",
    "Stack": "stacks",
    "Stream": "inline_stream",
    "memory_stack": "stacks",
    "redis_stack": "stacks",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
