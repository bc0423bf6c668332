"""Random calls, publications and subscriptions; one call in ten expires. At the end, all counts must agree."""

from __future__ import annotations

import random

from locust import between, tag, task

from juggler.locust.user import JugglerUser
from loadtest.locust.mixer import Mixer, channels, expect


class MixedUser(JugglerUser):
    """Performs random steps, like the integration run of the Go package."""

    wait_time = between(0.0, 0.1)
    expect_result = staticmethod(expect)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        # Channels of this process alone: events of others would be counted as foreign.
        names = channels(f"mixed.{self.ledger.run}", options.channels)
        self.mixer = Mixer(names, random.Random(), options.size)
        super().on_start()

    @tag("mixed")
    @task
    def step(self) -> None:
        self.mixer.step(self.client)
