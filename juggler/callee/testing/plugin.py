"""Fixtures for pytest, loaded by it wherever juggler is installed: ``juggler_memory`` and ``juggler_redis``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from juggler.callee.testing import Stack


@pytest.fixture
def juggler_memory() -> Iterator[Callable[..., Stack]]:
    """Make a stack in memory: ``stack = juggler_memory(rpc)``, then ``stack.client.call(…)``.

    See `callee.testing.memory_stack`. It ends with the test.
    """
    # Imported with the first use: whoever patches must have the time to.
    from juggler.callee.testing import memory_stack

    with ExitStack() as stacks:

        def make(callee: Any, **server_options: Any) -> Stack:
            return stacks.enter_context(memory_stack(callee, **server_options))

        yield make


@pytest.fixture
def juggler_redis() -> Iterator[Callable[..., Stack]]:
    """Make a stack of processes and a real Redis: ``stack = juggler_redis("myapp:rpc")``.

    See `callee.testing.redis_stack`. It ends with the test.
    """
    from juggler.callee.testing import redis_stack

    with ExitStack() as stacks:

        def make(name: str, *callee_options: str, server_options: tuple[str, ...] = ()) -> Stack:
            return stacks.enter_context(redis_stack(name, *callee_options, server_options=server_options))

        yield make
