"""What operators see of a whole fleet at one moment: server processes, and the busiest callees, URIs and channels."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from juggler.broker import CallerBroker, Registered, served_function
from juggler.protocol.server_status import Rate, ServerStatus, merged

ROWS = 20
"""Maximum number of callees, of URIs, and of channels that are shown."""


class BusyUri(msgspec.Struct, frozen=True):
    """A URI: calls per second, callees, and calls that wait."""

    uri: str
    rate: float
    callees: int
    queued: int


class BusyCallee(msgspec.Struct, frozen=True):
    """A callee process: host and process id, number of URIs, and calls per second."""

    process: str
    uris: int
    rate: float


class Overview(msgspec.Struct, frozen=True):
    """What is shown at one moment."""

    servers: list[ServerStatus]
    callees: list[BusyCallee]
    uris: list[BusyUri]
    channels: list[Rate]


def overview(broker: CallerBroker) -> Overview:
    """Return the figures of this moment. Blocks as `CallerBroker.servers` and `CallerBroker.registered`.

    Raises:
        BrokerError: they are not available.
    """
    servers = broker.servers()
    registered = broker.registered()
    channels = merged(rate for server in servers for rate in server.channels)
    return Overview(servers, busiest_callees(registered), busiest(servers, registered), channels[:ROWS])


def busiest_callees(registered: Sequence[Registered]) -> list[BusyCallee]:
    """Return the busiest callee processes. One of an older version is known by its identifier only."""
    found: dict[str, BusyCallee] = {}
    for each in registered:
        for callee_id, said in each.announcements.items():
            before = found.get(callee_id, BusyCallee(said.process or callee_id, 0, 0.0))
            found[callee_id] = BusyCallee(before.process, before.uris + 1, round(before.rate + said.rate, 2))
    return sorted(found.values(), key=lambda each: (-each.rate, each.process))[:ROWS]


def busiest(servers: Sequence[ServerStatus], registered: Sequence[Registered]) -> list[BusyUri]:
    """Return the busiest URIs: those that callees announce, and those that servers have results of."""
    rates = {rate.name: rate.rate for rate in merged(rate for server in servers for rate in server.uris)}
    found = [
        BusyUri(each.uri, max(each.rate, rates.pop(each.uri, 0.0)), each.callees, each.waiting)
        for each in map(served_function, registered)
    ]
    found += [BusyUri(uri, rate, 0, 0) for uri, rate in rates.items()]
    return sorted(found, key=lambda each: (-each.rate, -each.queued, each.uri))[:ROWS]
