"""The short name of `juggler.callee.demo`."""

from juggler.callee.demo import MAX_DELAY_MS, delay, echo, reverse, rpc

__all__ = ["MAX_DELAY_MS", "delay", "echo", "reverse", "rpc"]
