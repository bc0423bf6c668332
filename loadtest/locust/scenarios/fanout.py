"""One user publishes to all others; EVNT is the time from publication to arrival."""

from __future__ import annotations

from typing import Any

from juggler.locust import scenarios, stamped


class FanoutListener(scenarios.FanoutListener):
    """Receives the events of `FanoutPublisher`."""

    @property
    def channel(self) -> str:
        return f"fanout.{self.ledger.run}"


class FanoutPublisher(scenarios.FanoutPublisher):
    """Publishes --event-rate events a second."""

    @property
    def channel(self) -> str:
        return f"fanout.{self.ledger.run}"

    @property
    def rate(self) -> float:
        return self.environment.parsed_options.event_rate

    @property
    def event(self) -> Any:
        return stamped(text="x" * self.environment.parsed_options.size)
