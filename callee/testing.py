"""The short name of `juggler.callee.testing`."""

from juggler.callee.testing import Caller, Published, Stack, Stream, memory_stack, redis_stack

__all__ = ["Caller", "Published", "Stack", "Stream", "memory_stack", "redis_stack"]
