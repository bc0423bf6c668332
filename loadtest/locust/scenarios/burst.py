"""Bursts: many events at once, to many subscribers. Each has to receive all of them once and in order."""

from __future__ import annotations

import json
from typing import Any

from locust import constant, tag, task

from juggler.locust.client import stamped
from juggler.locust.user import JugglerUser
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from loadtest.locust.scenarios.fanout import Listener

LONGEST = 30.0


class BurstListener(Listener):
    """Receives the events of `BurstPublisher`."""

    @tag("burst")
    @task
    def listen(self) -> None:
        self.subscribe("burst")


class BurstPublisher(JugglerUser):
    """Publishes --burst events at once, and again a second after they have been acknowledged."""

    fixed_count = 1
    wait_time = constant(1)

    @tag("burst")
    @task
    def publish(self) -> None:
        options = self.environment.parsed_options
        client, channel = self.client, f"burst.{self.ledger.run}"
        for number in range(options.burst):
            # Not with ``publish``, which waits for each ACK.
            args: dict[str, Any] = stamped(number=number, text="x" * options.size)
            meta = {"type": int(MessageType.PUB), "uuid": new_uuid()}
            client.send_raw(json.dumps({"meta": meta, "payload": {"channel": channel, "args": args}}))
        client.settle(LONGEST)
