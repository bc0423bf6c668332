"""Load shapes: import one in your locustfile to use it. locust uses the first that it finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from locust import LoadTestShape

from juggler.locust.curves import spike, steps

RUN_TIME = 60.0
"""Seconds of a test without ``--run-time``."""

SPAWN_RATE = 100.0
"""Users started or stopped a second without ``--spawn-rate``."""


class _Curve(LoadTestShape):
    """Calls a function with the seconds since the start, ``--users`` and ``--run-time``."""

    abstract = True
    use_common_options = True
    curve: Callable[[float, int, float], int | None]

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now, and how many to start a second; None at the end."""
        options: Any = self.runner and self.runner.environment.parsed_options
        now = time.perf_counter() - self.start_time
        users = type(self).curve(now, options.num_users or 1, options.run_time or RUN_TIME)
        return None if users is None else (users, options.spawn_rate or SPAWN_RATE)


class Steps(_Curve):
    """Users in five equal steps, to show where latencies begin to grow.

    ``--users`` is the largest number of users, ``--run-time`` the duration of the test.
    """

    curve = staticmethod(steps)


class Spike(_Curve):
    """A tenth of the users, then all of them, then a tenth again, to show whether the server recovers.

    ``--users`` is the largest number of users, ``--run-time`` the duration of the test.
    """

    curve = staticmethod(spike)
