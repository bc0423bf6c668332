"""Users in five equal steps, to show where latencies begin to grow.

``locust -f loadtest/locustfile.py,loadtest/locust/shapes/steps.py --users 100 --run-time 60s …``
"""

from __future__ import annotations

from locust import LoadTestShape

from loadtest.locust.curves import steps

RUN_TIME = 60.0


class Steps(LoadTestShape):
    """``--users`` is the largest number of users, ``--run-time`` the duration of the test."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        options = self.runner.environment.parsed_options
        users = steps(self.get_run_time(), options.num_users or 1, options.run_time or RUN_TIME)
        return None if users is None else (users, options.spawn_rate or 100.0)
