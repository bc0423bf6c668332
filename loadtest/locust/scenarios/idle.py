"""Connections that do nothing: what they cost is to be seen at the server. Pings keep them open."""

from __future__ import annotations

from locust import constant, tag, task

from loadtest.locust.user import JugglerUser


class IdleUser(JugglerUser):
    """Connects and stays; a lost connection fails the check at the end, and is made anew."""

    wait_time = constant(5)

    @tag("idle")
    @task
    def stay(self) -> None:
        _ = self.client
