"""One connection: its client, what is subscribed to, and a line for all that happens to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from juggler.cli.printing import describe, one_line
from juggler.cli.terminal import lines
from juggler.cli.terminal.lines import Line
from juggler.client import Client, Pending, State, Subscription
from juggler.client.opening import shown
from juggler.client.state import Exp, result_value
from juggler.errors import CallFailed, ConnectionClosed, InvalidMessage, InvalidValue, JugglerError
from juggler.protocol.codec import decode_request, encode
from juggler.protocol.messages import Evnt, MessageType, Nack, Response

URIS_URI = "juggler.uris"
"""Where a server lists what is served, if it does: its option ``--list-uri``."""
URIS_TIMEOUT = 5.0
URIS_PERIOD = 2.0
"""Seconds after which the list is old."""


MOST = 1000


class Recent:
    """A set of at most so many names: the one that was used longest ago goes first. Threads may share it."""

    def __init__(self, names: Iterable[str] = (), most: int = MOST) -> None:
        self._names = dict.fromkeys(names)
        self._most = most
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self._names.pop(name, None)
            self._names[name] = None
            if len(self._names) > self._most:
                del self._names[next(iter(self._names))]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def all(self) -> list[str]:
        with self._lock:
            return list(self._names)


@dataclass
class Shared:
    """What all connections of a terminal have in common.

    Attributes:
        show: shows a line.
        headers: for the upgrade.
        timeout: seconds for which the result of a call is wanted.
        is_raw: whether every message is shown as it travels.
        uris: called before.
        channels: published on, subscribed to, or seen with an event.
        patterns: globs that were subscribed to.
        urls: connected to before.
    """

    show: Callable[[Line], None]
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    is_raw: bool = False
    uris: Recent = field(default_factory=Recent)
    channels: Recent = field(default_factory=Recent)
    patterns: Recent = field(default_factory=Recent)
    urls: Recent = field(default_factory=Recent)


class ClientConnection:
    """A connection with a number.

    Attributes:
        number: in the list of connections.
        url: without user name and password.
        served: signatures of the URIs that the server says are served, by URI; empty when it does not say.
        subscriptions: by channel or glob, and whether it is one.
    """

    def __init__(self, number: int, url: str, shared: Shared, on_closed: Callable[[ClientConnection], None]) -> None:
        """Connect. Errors are those of `juggler.client.Client`."""
        self.number = number
        self.url = shown(url)
        self.served: dict[str, str] = {}
        self.subscriptions: dict[tuple[str, bool], Subscription] = {}
        self._shared = shared
        self._on_closed = on_closed
        self._was_connected = False
        self._is_closing = False
        self._sent_raw = Recent()
        self._uris_at: float | None = None
        self._lists_uris = True
        self.client = Client(
            url,
            headers=shared.headers,
            max_events=1,  # they are shown as they come, and not read
            on_message=self._on_message,
            on_state=self._on_state,
            on_raw=self._on_raw,
        )

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def call(self, uri: str, args: bytes) -> None:
        """Start a call; its result is shown when it comes."""
        began = time.monotonic()
        pending = self.client.start_call_json(uri, args, self._shared.timeout)
        self._background("call", lambda: self._wait(pending, began))

    def _wait(self, pending: Pending, began: float) -> None:
        try:
            response = pending.response()
            seconds = time.monotonic() - began
            line = lines.result(self.number, pending.uri, response.args, seconds)
            try:
                result_value(response)
            except InvalidValue:
                pass  # JSON all the same
            except CallFailed as error:
                line = lines.failed(self.number, pending.uri, _at_length(error, response.args), seconds)
        except JugglerError as error:
            line = lines.failed(self.number, pending.uri, describe(error), time.monotonic() - began)
        self._shared.show(line)

    def publish(self, channel: str, args: bytes) -> None:
        """Publish an event."""
        began = time.monotonic()
        self.client.publish_json(channel, args)
        self._say(f"published on {channel}", began)

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Subscribe. Events are shown as they come."""
        if (channel, pattern) in self.subscriptions:
            self._say(f"subscribed to {channel} already")
            return
        began = time.monotonic()
        self.subscriptions[channel, pattern] = self.client.subscribe(
            channel, pattern, on_gap=lambda: self._say(f"subscribed to {channel} again; events may be missing")
        )
        self._say(f"subscribed to {channel}", began)

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """Unsubscribe."""
        if (channel, pattern) not in self.subscriptions:
            self._say(f"not subscribed to {channel}")
            return
        began = time.monotonic()
        del self.subscriptions[channel, pattern]
        self.client.unsubscribe(channel, pattern)
        self._say(f"unsubscribed from {channel}", began)

    def send(self, message: str | bytes) -> None:
        """Send a message as it is. Answers to it are shown as they come."""
        if isinstance(message, str):
            with suppress(InvalidMessage):  # that is for the server to say
                self._sent_raw.add(decode_request(message).uuid)
        self.client.send_raw(message)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End it, and wait until it has."""
        self._is_closing = True
        self.client.close(code, reason)

    def ask_uris(self) -> None:
        """Ask the server what is served, unless it was asked of late, or does not say. Does not wait."""
        now = time.monotonic()
        is_fresh = self._uris_at is not None and now - self._uris_at < URIS_PERIOD
        if is_fresh or not self._lists_uris or not self.client.connected:
            return
        self._uris_at = now
        self._background("uris", self._learn_uris)

    def _learn_uris(self) -> None:
        try:
            self.served = _signatures(self.client.call(URIS_URI, timeout=URIS_TIMEOUT))
        except ConnectionClosed:
            return
        except (JugglerError, ValueError):
            # It is a convenience: a server that has no such list, or another function there, is not bothered again.
            self._lists_uris = False

    def _background(self, what: str, run: Callable[[], None]) -> None:
        threading.Thread(target=run, name=f"juggler-terminal-{what}", daemon=True).start()

    # From the client's threads

    def _on_message(self, message: Response | Exp) -> None:
        if isinstance(message, Exp):
            return
        if isinstance(message, Evnt):
            self._shared.channels.add(message.channel)
            self._shared.show(lines.event(self.number, message))
        elif message.for_ in self._sent_raw:
            if not self._shared.is_raw:
                self._shared.show(lines.raw(self.number, "in", encode(message).decode()))
        elif isinstance(message, Nack) and message.for_type == MessageType.SUB:
            self._on_refused_anew(message)

    def _on_refused_anew(self, nack: Nack) -> None:
        lost = [key for key in list(self.subscriptions) if key[0] == nack.channel]
        for key in lost:
            del self.subscriptions[key]
        if lost:
            self._shared.show(
                lines.trouble(self.number, f"not subscribed to {nack.channel} again: {nack.code} {nack.message}")
            )

    def _on_state(self, state: State, error: JugglerError | None) -> None:
        if state is State.CONNECTED:
            self._say("connected again" if self._was_connected else f"connected to {self.url}")
            self._was_connected = True
        elif state is State.DISCONNECTED:
            self._shared.show(lines.trouble(self.number, f"connection lost: {error}; connecting again"))
        else:
            line = lines.said if self._is_closing else lines.trouble
            self._shared.show(line(self.number, f"closed: {error}"))
            self._on_closed(self)

    def _on_raw(self, direction: Literal["in", "out"], message: str | bytes) -> None:
        if self._shared.is_raw:
            self._shared.show(lines.raw(self.number, direction, message))

    def _say(self, text: str, began: float | None = None) -> None:
        took = "" if began is None else f"  ({lines.duration(time.monotonic() - began)})"
        self._shared.show(lines.said(self.number, text + took))


def _at_length(error: CallFailed, args: bytes) -> str:
    """Return an error with what the callee said beside its message."""
    code = "" if error.code is None else f", code {error.code}"
    data = "" if error.data is None else f", {one_line(args)}"
    return describe(error) + code + data


def _signatures(listed: Any) -> dict[str, str]:
    """Return signatures by URI.

    Raises:
        ValueError: it is not a list of what is served.
    """
    try:
        found = {function["uri"]: str(function.get("signature", "")) for function in listed}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a list of what is served: {error}") from None
    return {uri: signature for uri, signature in found.items() if isinstance(uri, str)}
