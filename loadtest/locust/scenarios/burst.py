"""Bursts: many events at once, to many subscribers. Each has to receive all of them once and in order."""

from __future__ import annotations

from typing import Any

from juggler.locust import scenarios, stamped


class BurstListener(scenarios.BurstListener):
    """Receives the events of `BurstPublisher`."""

    @property
    def channel(self) -> str:
        return f"burst.{self.ledger.run}"


class BurstPublisher(scenarios.BurstPublisher):
    """Publishes --burst events at once."""

    @property
    def channel(self) -> str:
        return f"burst.{self.ledger.run}"

    @property
    def burst(self) -> int:
        return self.environment.parsed_options.burst

    @property
    def event(self) -> Any:
        return stamped(text="x" * self.environment.parsed_options.size)
