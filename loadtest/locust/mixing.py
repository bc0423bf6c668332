"""What a client does in a mixed run: random calls, one in ten made to expire, publications and subscriptions. No I/O.

Needs the functions of callee.demo.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from juggler.client import Client, Pending, Subscription
from juggler.errors import Expired
from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Call
from loadtest.locust.answers import Fate
from loadtest.locust.client import stamped

CALL, PUB, SUB, UNSB = 76, 18, 5, 1
"""Of a hundred steps."""

PATTERNS = 0.3
"""Part of the subscriptions."""

EXPIRE_ONE_IN = 10
SHORT, LONG_MS = 0.2, 500
"""Seconds that a call waits, and ms that its function takes, so that the call expires."""

MOST_UNDER_WAY = 8
MOST_DELAY_MS = 30


def expect(call: Call) -> Any:
    """Return what a function of the demo has to answer, or what becomes of the call."""
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
        """Begin with nothing.

        Args:
            channels: to publish on and to subscribe to; they end in ``.<number>``, so that there is a pattern.
            dice: decides.
            size: largest number of characters of what is sent.
            timeout: of calls that have to be answered, in seconds.
        """
        self._channels = channels
        self._dice = dice
        self._size = size
        self._timeout = timeout
        self._calls: list[Pending] = []
        self._subscriptions: dict[tuple[str, bool], Subscription] = {}

    def step(self, client: Client) -> None:
        """Do one thing; waits for an ACK, and for a result when too many are due.

        Raises:
            JugglerError: it was refused, or the connection is lost.
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
        if len(self._calls) > MOST_UNDER_WAY:
            self._wait(self._calls.pop(0))

    def publish(self, client: Client) -> None:
        client.publish(self._dice.choice(self._channels), stamped(text=self._text()))

    def subscribe(self, client: Client) -> None:
        channel = self._dice.choice(self._channels)
        by_pattern = self._dice.random() < PATTERNS
        key = (channel.rpartition(".")[0] + ".*" if by_pattern else channel, by_pattern)
        if key not in self._subscriptions:
            # What comes is counted by the client's book; nobody reads it here.
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
        return "test.delay", str(self._dice.randrange(MOST_DELAY_MS))

    def _text(self) -> str:
        return "x\u00e4\u6f22" * self._dice.randrange(1, max(2, self._size // 3))

    def _wait(self, call: Pending) -> None:
        with suppress(Expired):  # the client's book knows whether it was meant to
            call.response()


def channels(prefix: str, count: int) -> list[str]:
    """Return names for channels with a prefix of their own."""
    return [f"{prefix}.{number}" for number in range(count)]
