"""The steps of a client in a mixed run: calls, one in ten of which expires, publications and subscriptions. No I/O.

It needs the functions of callee.demo.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from juggler.client import Client, Pending, Subscription
from juggler.errors import Expired
from juggler.locust.client import stamped
from juggler.locust.request_checks import Fate
from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Call

CALL, PUB, SUB, UNSB = 76, 18, 5, 1
"""Percentages of the steps."""

PATTERNS = 0.3
"""Share of the subscriptions."""

EXPIRE_ONE_IN = 10
SHORT, LONG_MS = 0.2, 500
"""Timeout in seconds, and duration of the function in ms, of a call that expires."""

MAX_IN_FLIGHT = 8
MAX_DELAY_MS = 30


def expect(call: Call) -> Any:
    """Return the result that a call of the demo must have, or its fate."""
    args = decode_args(call.args)
    if call.uri == "test.echo":
        return args
    if call.uri == "test.reverse":
        return args[::-1]
    if call.uri == "test.delay":
        return Fate.EXPIRES if int(args) / 1000 > call.timeout > 0 else int(args)
    return Fate.ANY


class Mixer:
    """The steps of one client."""

    def __init__(self, channels: Sequence[str], dice: random.Random, size: int = 100, timeout: float = 10.0) -> None:
        """Args:
        channels: channels to publish and subscribe to; their last part is a number, so that a pattern matches all.
        dice: random generator.
        size: largest number of characters of arguments and events.
        timeout: timeout in seconds of calls that must have a result.
        """
        self._channels = channels
        self._dice = dice
        self._size = size
        self._timeout = timeout
        self._calls: list[Pending] = []
        self._subscriptions: dict[tuple[str, bool], Subscription] = {}

    def step(self, client: Client) -> None:
        """Do one thing; block until its ACK, and until a result if too many calls are in flight.

        Raises:
            JugglerError: the request was refused, or the connection was lost.
        """
        what = self._dice.choices(("call", "publish", "subscribe", "unsubscribe"), (CALL, PUB, SUB, UNSB))[0]
        getattr(self, what)(client)

    def call(self, client: Client) -> None:
        if self._dice.randrange(EXPIRE_ONE_IN) == 0:
            uri, args, timeout = "test.delay", str(LONG_MS), SHORT
        else:
            uri, args, timeout = *self._function(), self._timeout
        self._calls = [call for call in self._calls if not call.done]
        self._calls.append(client.start_call(uri, args, timeout))
        if len(self._calls) > MAX_IN_FLIGHT:
            self._wait(self._calls.pop(0))

    def publish(self, client: Client) -> None:
        client.publish(self._dice.choice(self._channels), stamped(text=self._text()))

    def subscribe(self, client: Client) -> None:
        channel = self._dice.choice(self._channels)
        by_pattern = self._dice.random() < PATTERNS
        key = (channel.rpartition(".")[0] + ".*" if by_pattern else channel, by_pattern)
        if key not in self._subscriptions:
            # The client's book counts the events; they are not read here.
            self._subscriptions[key] = client.subscribe(*key, max_events=1)

    def unsubscribe(self, client: Client) -> None:
        if self._subscriptions:
            key = self._dice.choice(sorted(self._subscriptions))
            self._subscriptions.pop(key).close()

    def _function(self) -> tuple[str, Any]:
        kind = self._dice.randrange(3)
        if kind == 0:
            return "test.echo", {"text": self._text(), "number": self._dice.randrange(2**53)}
        if kind == 1:
            return "test.reverse", self._text()
        return "test.delay", str(self._dice.randrange(MAX_DELAY_MS))

    def _text(self) -> str:
        return "x\u00e4\u6f22" * self._dice.randrange(1, max(2, self._size // 3))

    def _wait(self, call: Pending) -> None:
        with suppress(Expired):  # the client's book checks whether it had to
            call.response()


def channels(prefix: str, count: int) -> list[str]:
    """Return names of channels with a common prefix."""
    return [f"{prefix}.{number}" for number in range(count)]
