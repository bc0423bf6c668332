"""All clients reconnect at the same moment, as after a restart of the server or of the network."""

from __future__ import annotations

from juggler.locust import scenarios


class StormUser(scenarios.StormUser):
    """Disconnects, and at the next full --storm-period connects, subscribes and calls."""

    uri = "test.echo"

    @property
    def period(self) -> float:
        return self.environment.parsed_options.storm_period

    def on_connect(self) -> None:
        self.client.subscribe(f"storm.{self.ledger.run}", max_events=1)
