"""All clients reconnect at the same moment, as after a restart of the server or of the network."""

from __future__ import annotations

import random
import time

import gevent
from locust import tag, task

from juggler.locust.user import JugglerUser


class StormUser(JugglerUser):
    """Disconnects, and at the next full period connects, subscribes and calls; RECONNECT is the time for all three."""

    @tag("storm")
    @task
    def storm(self) -> None:
        self.disconnect()
        period = self.environment.parsed_options.storm_period
        gevent.sleep(period - time.time() % period)
        if self.ledger.stopping:
            return
        began = time.monotonic()
        client = self.client
        client.subscribe(f"storm.{self.ledger.run}", max_events=1)
        client.call("test.echo", random.randrange(1000), timeout=30.0)
        self.report("RECONNECT", "", time.monotonic() - began)
