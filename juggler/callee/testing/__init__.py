"""Test kit for callees: `Caller` runs functions in place, stacks add a server and a client.

`Caller` needs neither Redis nor a server. `memory_stack` and `redis_stack` are complete deployments on loopback. The
pytest fixtures ``juggler_memory`` and ``juggler_redis`` start them.
"""

from juggler.callee.testing.inline_caller import Caller, Published
from juggler.callee.testing.stacks import Stack, memory_stack, redis_stack

__all__ = ["Caller", "Published", "Stack", "memory_stack", "redis_stack"]
