"""Idle connections, to measure their cost at the server; pings keep them open."""

from __future__ import annotations

from locust import constant, tag, task

from juggler.locust.user import JugglerUser


class IdleUser(JugglerUser):
    """Connects, and reconnects after a lost connection, which fails the check at the end."""

    wait_time = constant(5)

    @tag("idle")
    @task
    def stay(self) -> None:
        _ = self.client
