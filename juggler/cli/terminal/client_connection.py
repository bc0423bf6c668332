"""One numbered connection: its client, its subscriptions, and a line shown for everything that happens to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from juggler.cli.printing import describe
from juggler.cli.terminal import lines
from juggler.cli.terminal.lines import StyledLine
from juggler.client import Client, Pending, State, Subscription
from juggler.client.opening import shown
from juggler.client.state import Exp
from juggler.errors import CallFailed, ConnectionClosed, InvalidMessage, InvalidValue, JugglerError
from juggler.protocol.codec import decode_request, encode
from juggler.protocol.messages import Ends, Evnt, MessageType, Nack, Response, Wlcm
from juggler.protocol.results import result_value

CATALOGUE_URI = "juggler.uris"
"""URI of the catalogue, if the server has one (``--list-uri``)."""
CATALOGUE_TIMEOUT = 5.0
CATALOGUE_PERIOD = 2.0
"""Seconds after which the catalogue is requested again."""

MAX_NAMES = 1000


class Recent:
    """A bounded set of names that drops the least recently used. Threads may share it."""

    def __init__(self, names: Iterable[str] = (), max_names: int = MAX_NAMES) -> None:
        self._names = dict.fromkeys(names)
        self._max_names = max_names
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self._names.pop(name, None)
            self._names[name] = None
            if len(self._names) > self._max_names:
                del self._names[next(iter(self._names))]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def all(self) -> list[str]:
        with self._lock:
            return list(self._names)


@dataclass
class Shared:
    """State that the connections of a terminal share.

    Attributes:
        show: shows a line.
        headers: HTTP headers for each websocket handshake.
        timeout: timeout of calls in seconds.
        is_raw: whether to show every message as sent and received.
        uris: called before.
        channels: published to, subscribed to, or received with an event.
        patterns: globs subscribed to.
        urls: connected to before.
    """

    show: Callable[[StyledLine], None]
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    is_raw: bool = False
    uris: Recent = field(default_factory=Recent)
    channels: Recent = field(default_factory=Recent)
    patterns: Recent = field(default_factory=Recent)
    urls: Recent = field(default_factory=Recent)


class ClientConnection:
    """A connection of the terminal.

    Attributes:
        number: its number in the list of connections.
        url: without user name and password.
        signatures: those of the registered functions, by URI; empty if the server has no catalogue.
        subscriptions: by channel or glob, and whether it is a glob.
    """

    def __init__(self, number: int, url: str, shared: Shared, on_closed: Callable[[ClientConnection], None]) -> None:
        """Connect; raises the errors of `juggler.client.Client`."""
        self.number = number
        self.url = shown(url)
        self.signatures: dict[str, str] = {}
        self.subscriptions: dict[tuple[str, bool], Subscription] = {}
        self._shared = shared
        self._on_closed = on_closed
        self._was_connected = False
        self._is_closing = False
        self._sent_raw = Recent()
        self._catalogue_at: float | None = None
        self._has_catalogue = True
        self.client = Client(
            url,
            headers=shared.headers,
            max_events=1,  # on_message shows events; the queue is not read
            on_message=self._on_message,
            on_state=self._on_state,
            on_raw=self._on_raw,
        )

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def call(self, uri: str, args: bytes) -> None:
        """Start a call, and show its result when it arrives."""
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
                pass  # shown as the JSON that it is
            except CallFailed as error:
                line = lines.failed(self.number, pending.uri, describe(error), seconds)
        except JugglerError as error:
            line = lines.failed(self.number, pending.uri, describe(error), time.monotonic() - began)
        self._shared.show(line)

    def publish(self, channel: str, args: bytes) -> None:
        """Publish an event, and wait for the acknowledgement."""
        began = time.monotonic()
        self.client.publish_json(channel, args)
        self._show_info(f"published on {channel}", began)

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Subscribe, and show events as they arrive."""
        if (channel, pattern) in self.subscriptions:
            self._show_info(f"already subscribed to {channel}")
            return
        began = time.monotonic()
        self.subscriptions[channel, pattern] = self.client.subscribe(
            channel, pattern, on_gap=lambda: self._show_info(f"resubscribed to {channel}; events may be missing")
        )
        self._show_info(f"subscribed to {channel}", began)

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """End a subscription."""
        if (channel, pattern) not in self.subscriptions:
            self._show_info(f"not subscribed to {channel}")
            return
        began = time.monotonic()
        del self.subscriptions[channel, pattern]
        self.client.unsubscribe(channel, pattern)
        self._show_info(f"unsubscribed from {channel}", began)

    def send(self, message: str | bytes) -> None:
        """Send a message unchanged, and show responses to it raw."""
        if isinstance(message, str):
            with suppress(InvalidMessage):  # the server rejects it
                self._sent_raw.add(decode_request(message).uuid)
        self.client.send_raw(message)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, and wait for the closing handshake."""
        self._is_closing = True
        self.client.close(code, reason)

    def refresh_catalogue(self) -> None:
        """Request the catalogue in the background, unless it is recent or the server has none."""
        now = time.monotonic()
        is_fresh = self._catalogue_at is not None and now - self._catalogue_at < CATALOGUE_PERIOD
        if is_fresh or not self._has_catalogue or not self.client.connected:
            return
        self._catalogue_at = now
        self._background("catalogue", self._request_catalogue)

    def _request_catalogue(self) -> None:
        try:
            self.signatures = _signatures(self.client.call(CATALOGUE_URI, timeout=CATALOGUE_TIMEOUT))
        except ConnectionClosed:
            return
        except (JugglerError, ValueError):
            # The server has no catalogue, or another function at this URI.
            self._has_catalogue = False

    def _background(self, what: str, run: Callable[[], None]) -> None:
        threading.Thread(target=run, name=f"juggler-terminal-{what}", daemon=True).start()

    # Called in threads of the client:

    def _on_message(self, message: Response | Exp) -> None:
        if isinstance(message, (Exp, Wlcm)):
            return
        if isinstance(message, Ends):
            self.subscriptions.pop((message.channel, message.is_pattern), None)
            self._show_lost(message.channel, message.code, message.message)
            return
        if isinstance(message, Evnt):
            self._shared.channels.add(message.channel)
            self._shared.show(lines.event(self.number, message))
        elif message.for_ in self._sent_raw:
            if not self._shared.is_raw:
                self._shared.show(lines.raw(self.number, "in", encode(message).decode()))
        elif isinstance(message, Nack) and message.for_type == MessageType.SUB:
            self._on_resubscription_refused(message)

    def _on_resubscription_refused(self, nack: Nack) -> None:
        lost = [key for key in list(self.subscriptions) if key[0] == nack.channel]
        for key in lost:
            del self.subscriptions[key]
        if lost:
            self._show_lost(nack.channel, nack.code, nack.message)

    def _show_lost(self, channel: str, code: int, reason: str) -> None:
        self._shared.show(lines.problem(self.number, f"subscription to {channel} lost: {code} {reason}"))

    def _on_state(self, state: State, error: JugglerError | None) -> None:
        if state is State.CONNECTED:
            self._show_info("reconnected" if self._was_connected else f"connected to {self.url}")
            self._was_connected = True
        elif state is State.DISCONNECTED:
            self._shared.show(lines.problem(self.number, f"connection lost: {error}; reconnecting"))
        else:
            line = lines.info if self._is_closing else lines.problem
            self._shared.show(line(self.number, f"closed: {error}"))
            self._on_closed(self)

    def _on_raw(self, direction: Literal["in", "out"], message: str | bytes) -> None:
        if self._shared.is_raw:
            self._shared.show(lines.raw(self.number, direction, message))

    def _show_info(self, text: str, began: float | None = None) -> None:
        took = "" if began is None else f"  ({lines.duration(time.monotonic() - began)})"
        self._shared.show(lines.info(self.number, text + took))


def _signatures(listed: Any) -> dict[str, str]:
    """Return signatures by URI.

    Raises:
        ValueError: the value is no catalogue.
    """
    try:
        found = {function["uri"]: str(function.get("signature", "")) for function in listed}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"invalid catalogue: {error}") from None
    return {uri: signature for uri, signature in found.items() if isinstance(uri, str)}
