"""Random calls, publications and subscriptions; one call in ten expires. All counts have to agree at the end."""

from __future__ import annotations

import random

from locust import between, tag, task

from loadtest.locust.mixing import Mixer, channels, expect
from loadtest.locust.user import JugglerUser


class MixedUser(JugglerUser):
    """Does one thing after the other, as the original's integration run does."""

    wait_time = between(0.0, 0.1)
    expect = staticmethod(expect)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        # Channels of this process: what others publish there would not be in its book.
        names = channels(f"mixed.{self.ledger.run}", options.channels)
        self.mixer = Mixer(names, random.Random(), options.size)
        super().on_start()

    @tag("mixed")
    @task
    def step(self) -> None:
        self.mixer.step(self.client)
