"""The short name of `juggler.callee.worker`."""

from juggler.callee.worker import DEFAULT_THREADS, Worker

__all__ = ["DEFAULT_THREADS", "Worker"]
