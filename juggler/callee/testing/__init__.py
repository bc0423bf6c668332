"""To test callees with: `Caller` alone, or whole stacks with a server and a client.

``Caller`` needs neither Redis nor a server. `memory_stack` and `redis_stack` have all that a deployment has; for pytest
there are fixtures of theirs, ``juggler_memory`` and ``juggler_redis``.
"""

from juggler.callee.testing.inline_caller import Caller, Published
from juggler.callee.testing.stacks import Stack, memory_stack, redis_stack

__all__ = ["Caller", "Published", "Stack", "memory_stack", "redis_stack"]
