"""Calls at a constant rate, and calls in a closed loop."""

from __future__ import annotations

from typing import Any

from locust import constant_throughput, tag, task

from juggler.locust.user import JugglerUser


class RpcRate(JugglerUser):
    """Makes --call-rate calls a second without waiting for results, which exposes the queue of a slow server."""

    weight = 1

    def wait_time(self) -> Any:
        return constant_throughput(self.environment.parsed_options.call_rate)(self)

    @tag("rpc", "rate")
    @task
    def call(self) -> None:
        self.client.start_call("test.echo", "x" * self.environment.parsed_options.size, timeout=10.0)


class RpcClosed(JugglerUser):
    """Calls again on each result: the throughput of the server with one call in flight for each user."""

    weight = 1

    @tag("rpc", "closed")
    @task
    def call(self) -> None:
        self.client.call("test.echo", "x" * self.environment.parsed_options.size, timeout=10.0)
