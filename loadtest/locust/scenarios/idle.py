"""Idle connections, to measure their cost at the server; pings keep them open."""

from __future__ import annotations

from juggler.locust import scenarios


class IdleUser(scenarios.IdleUser):
    """Connects, and reconnects after a lost connection, which fails the check at the end."""
