"""Pytest fixtures ``juggler_memory`` and ``juggler_redis``. Pytest loads them if juggler is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from juggler.callee.testing import Stack


@pytest.fixture
def juggler_memory() -> Iterator[Callable[..., Stack]]:
    """Start a stack in memory: ``stack = juggler_memory(rpc)``, then ``stack.client.call(…)``.

    See `callee.testing.memory_stack`, also for options of the server and the client. The stack stops with the test.
    """
    # Imported on first use, so that other plugins can monkey-patch before.
    from juggler.callee.testing import memory_stack

    with ExitStack() as stacks:

        def make(callee: Any, **options: Any) -> Stack:
            return stacks.enter_context(memory_stack(callee, **options))

        yield make


@pytest.fixture
def juggler_redis() -> Iterator[Callable[..., Stack]]:
    """Start a stack of processes with a real Redis: ``stack = juggler_redis("myapp:rpc")``.

    See `callee.testing.redis_stack`. The stack stops with the test.
    """
    from juggler.callee.testing import redis_stack

    with ExitStack() as stacks:

        def make(name: str, *callee_options: str, server_options: tuple[str, ...] = ()) -> Stack:
            return stacks.enter_context(redis_stack(name, *callee_options, server_options=server_options))

        yield make
