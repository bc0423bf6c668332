"""Calls at a constant rate, and calls in a closed loop."""

from __future__ import annotations

from juggler.locust import scenarios


class RpcRate(scenarios.RpcRate):
    """Makes --call-rate calls a second."""

    uri = "test.echo"

    @property
    def rate(self) -> float:
        return self.environment.parsed_options.call_rate

    @property
    def args(self) -> str:
        return "x" * self.environment.parsed_options.size


class RpcClosed(scenarios.RpcClosed):
    """Calls again on each result."""

    uri = "test.echo"

    @property
    def args(self) -> str:
        return "x" * self.environment.parsed_options.size
