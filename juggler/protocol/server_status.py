"""What a server process reports of itself once a second, for operators. PURE.

It is the JSON value of ``juggler:server:{<server>}``. Unknown members are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from heapq import nlargest
from operator import itemgetter

import msgspec

MAX_HOTTEST = 10
"""Maximum number of URIs, and of channels, that a server reports."""

MAX_SHOWN = 200
"""Characters of a URI or channel that are reported."""


class Rate(msgspec.Struct, frozen=True):
    """How busy a URI or channel is.

    Attributes:
        name: its name, or the beginning.
        rate: completed calls or events per second.
    """

    name: str
    rate: float


class ServerStatus(msgspec.Struct, frozen=True):
    """A server process. Rates are those of the last few seconds.

    Attributes:
        server: its identifier.
        host: name of the machine.
        pid: number of the process.
        started: when it has started, in seconds since 1970.
        draining: whether it is shutting down.
        connections: open connections.
        calls: calls in flight of its process.
        call_rate: completed calls per second.
        event_rate: events received from the broker per second.
        lag: maximum lag of its event loop in the last ten seconds, in seconds.
        uris: URIs with the most calls.
        channels: channels with the most events.
    """

    server: str
    host: str = ""
    pid: int = 0
    started: float = 0.0
    draining: bool = False
    connections: int = 0
    calls: int = 0
    call_rate: float = 0.0
    event_rate: float = 0.0
    lag: float = 0.0
    uris: list[Rate] = []
    channels: list[Rate] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ServerStatus)


def encode_status(status: ServerStatus) -> bytes:
    """Return a status as JSON text."""
    return _encoder.encode(status)


def decode_statuses(texts: Mapping[str, bytes]) -> list[ServerStatus]:
    """Return the status of each server, by its identifier. Of a malformed one, only the identifier is known."""
    return [_decoded(server_id, text) for server_id, text in sorted(texts.items())]


def _decoded(server_id: str, text: bytes) -> ServerStatus:
    try:
        return msgspec.structs.replace(_decoder.decode(text), server=server_id)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ServerStatus(server_id)


def hottest(counts: Mapping[str, float], seconds: float) -> list[Rate]:
    """Return the names with the highest counts, at most 10, those of zero left out."""
    most = nlargest(MAX_HOTTEST, counts.items(), key=itemgetter(1))
    return [Rate(_shown(name), round(count / seconds, 2)) for name, count in most if count > 0]


def merged(rates: Iterable[Rate]) -> list[Rate]:
    """Return the sums of rates by name, highest first."""
    sums: defaultdict[str, float] = defaultdict(float)
    for each in rates:
        sums[each.name] += each.rate
    return [Rate(name, rate) for name, rate in sorted(sums.items(), key=itemgetter(1), reverse=True)]


def _shown(name: str) -> str:
    shown = name if len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 1]}…"
    return shown if shown.isascii() else shown.encode(errors="replace").decode()
