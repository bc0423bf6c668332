"""Scenarios for any application: subclass one in your locustfile, and set its attributes.

::

    class Price(RpcRate):
        uri = "shop.price"
        args = "tea"
        rate = 5.0

Each attribute may be a property, which is read for each request. The tasks have tags for ``--tags``.
"""

from __future__ import annotations

import json
import time
from typing import Any

import gevent
from locust import constant, constant_throughput, tag, task

from juggler.locust.client import stamped
from juggler.locust.user import JugglerUser
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType

_LONGEST_BURST = 30.0
"""Seconds to wait for the ACKs of a burst."""


class _Caller(JugglerUser):
    """Calls a function.

    Attributes:
        uri: URI of the function.
        args: its arguments. Default: ``None``.
        timeout: seconds to wait for the result. Default: 10.
    """

    abstract = True
    uri: Any = ""
    args: Any = None
    timeout: Any = 10.0


class RpcRate(_Caller):
    """Calls at a constant rate, whether results arrive or not, which exposes the queue of a slow server.

    Attributes:
        rate: calls a second of each user. Default: 1. Up to ``rate * timeout`` calls are in flight.
    """

    abstract = True
    rate: Any = 1.0

    def wait_time(self) -> Any:
        return constant_throughput(self.rate)(self)

    @tag("rpc", "rate")
    @task
    def call(self) -> None:
        self.client.start_call(self.uri, self.args, self.timeout)


class RpcClosed(_Caller):
    """Calls again on each result: the throughput of the server with one call in flight for each user."""

    abstract = True

    @tag("rpc", "closed")
    @task
    def call(self) -> None:
        self.client.call(self.uri, self.args, self.timeout)


class Listener(JugglerUser):
    """Subscribes to a channel; a subclass has the task. EVNT is the time from a publication to its arrival.

    Attributes:
        channel: the channel.
        pattern: whether it is a glob. Default: false.
    """

    abstract = True
    wait_time = constant(1)
    channel: Any = ""
    pattern: Any = False

    def on_connect(self) -> None:
        self.client.subscribe(self.channel, self.pattern, max_events=1)  # they are counted, not read


class FanoutListener(Listener):
    """Receives the events of a `FanoutPublisher`, or those of your application."""

    abstract = True

    @tag("fanout")
    @task
    def listen(self) -> None:
        _ = self.client


class BurstListener(Listener):
    """Receives the events of a `BurstPublisher`."""

    abstract = True

    @tag("burst")
    @task
    def listen(self) -> None:
        _ = self.client


class FanoutPublisher(JugglerUser):
    """Publishes events at a constant rate. There is one of it.

    Attributes:
        channel: the channel.
        rate: events a second. Default: 1.
        event: args of an event. Default: an object with the time as ``sent_at``.
    """

    abstract = True
    fixed_count = 1
    channel: Any = ""
    rate: Any = 1.0

    @property
    def event(self) -> Any:
        return stamped()

    def wait_time(self) -> Any:
        return constant_throughput(self.rate)(self)

    @tag("fanout")
    @task
    def publish(self) -> None:
        self.client.publish(self.channel, self.event)


class BurstPublisher(JugglerUser):
    """Publishes many events at once, and again a second after they have been acknowledged. There is one of it.

    Attributes:
        channel: the channel.
        burst: number of events. Default: 100.
        event: args of an event. Default: an object with the time as ``sent_at``.
    """

    abstract = True
    fixed_count = 1
    wait_time = constant(1)
    channel: Any = ""
    burst: Any = 100

    @property
    def event(self) -> Any:
        return stamped()

    @tag("burst")
    @task
    def publish(self) -> None:
        client = self.client
        for _ in range(self.burst):
            # Not with ``publish``, which waits for each ACK.
            meta = {"type": int(MessageType.PUB), "uuid": new_uuid()}
            client.send_raw(json.dumps({"meta": meta, "payload": {"channel": self.channel, "args": self.event}}))
        client.settle(_LONGEST_BURST)


class StormUser(_Caller):
    """Disconnects, and connects again with all others at the same moment, as after a restart of the network.

    RECONNECT is the time until it is connected, has done what `on_connect` does, and has called ``uri``, if it has one.

    Attributes:
        period: seconds between storms. Default: 10.
    """

    abstract = True
    timeout: Any = 30.0
    period: Any = 10.0

    @tag("storm")
    @task
    def storm(self) -> None:
        self.disconnect()
        gevent.sleep(self.period - time.time() % self.period)
        if self.ledger.stopping:
            return
        began = time.monotonic()
        client = self.client
        if self.uri:
            client.call(self.uri, self.args, self.timeout)
        self.report("RECONNECT", "", time.monotonic() - began)


class IdleUser(JugglerUser):
    """Connects, and does nothing; pings keep it open. A lost connection fails the check at the end."""

    abstract = True
    wait_time = constant(5)

    @tag("idle")
    @task
    def stay(self) -> None:
        _ = self.client
