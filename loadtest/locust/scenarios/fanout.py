"""One user publishes to all others; EVNT is the time from publication to arrival."""

from __future__ import annotations

from typing import Any

from locust import constant, constant_throughput, tag, task

from juggler.locust.client import stamped
from juggler.locust.user import JugglerUser


class Listener(JugglerUser):
    """Subscribes to a channel."""

    abstract = True
    wait_time = constant(1)
    subscribed_on = 0

    def subscribe(self, scenario: str) -> None:
        """Subscribe once for each connection."""
        client = self.client
        if client.number != self.subscribed_on:
            client.subscribe(f"{scenario}.{self.ledger.run}", max_events=1)
            self.subscribed_on = client.number


class FanoutListener(Listener):
    """Receives the events of `FanoutPublisher`."""

    @tag("fanout")
    @task
    def listen(self) -> None:
        self.subscribe("fanout")


class FanoutPublisher(JugglerUser):
    """Publishes --event-rate events a second."""

    fixed_count = 1

    def wait_time(self) -> Any:
        return constant_throughput(self.environment.parsed_options.event_rate)(self)

    @tag("fanout")
    @task
    def publish(self) -> None:
        text = "x" * self.environment.parsed_options.size
        self.client.publish(f"fanout.{self.ledger.run}", stamped(text=text))
