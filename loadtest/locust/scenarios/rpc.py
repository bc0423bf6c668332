"""Calls: at a rate, whatever becomes of them, and in a closed loop, one after the other."""

from __future__ import annotations

from typing import Any

from locust import constant_throughput, tag, task

from loadtest.locust.user import JugglerUser


class RpcRate(JugglerUser):
    """Calls so often a second, and does not wait for results: a slow server gets no relief, and its queue is seen."""

    weight = 1

    def wait_time(self) -> Any:
        return constant_throughput(self.environment.parsed_options.call_rate)(self)

    @tag("rpc", "rate")
    @task
    def call(self) -> None:
        self.client.start_call("test.echo", "x" * self.environment.parsed_options.size, timeout=10.0)


class RpcClosed(JugglerUser):
    """Calls again as soon as it is answered: shows how much the server can do, with one call of each user under way."""

    weight = 1

    @tag("rpc", "closed")
    @task
    def call(self) -> None:
        self.client.call("test.echo", "x" * self.environment.parsed_options.size, timeout=10.0)
