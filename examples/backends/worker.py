"""Background tasks in prefork processes, as with Celery. Each process has connections of its own.

With Celery, ``pack`` has the decorator ``@celery.task``, and the rest of this file is Celery's.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from juggler.backend import Backend

backend = Backend(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))


def run(order: str) -> None:
    """Pack an order, and publish each state as it is reached."""
    for state in ("packed", "sent"):
        backend.publish("orders", {"order": order, "state": state})


class Task:
    """A task that runs in one of a few processes, which are forked when the first task arrives."""

    def __init__(self, function) -> None:
        self._function = function
        self._pool: ProcessPoolExecutor | None = None

    def delay(self, *args) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(2, mp_context=get_context("fork"))
        self._pool.submit(self._function, *args)


pack = Task(run)
