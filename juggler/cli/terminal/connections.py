"""The connections of a terminal: numbered as they were made, one of them the current one."""

from __future__ import annotations

import threading

from juggler.cli.terminal.client_connection import ClientConnection, Shared
from juggler.cli.terminal.completion import Names
from juggler.cli.terminal.grammar import Mistake
from juggler.client.opening import shown


class Connections:
    """Connections that are open, or are being made again."""

    def __init__(self, shared: Shared, default_url: str) -> None:
        self._shared = shared
        self._default_url = default_url
        self._open: dict[int, ClientConnection] = {}
        self._current: int | None = None
        self._last = 0
        self._lock = threading.Lock()

    def connect(self, url: str | None) -> ClientConnection:
        """Make a connection, the current one from then on; without a URL to where the last one was made.

        Raises:
            JugglerError: those of `juggler.client.Client`.
        """
        url = url or self._default_url
        if shown(url) == url:  # with a password it is not offered again
            self._shared.urls.add(url)
        connection = ClientConnection(self._last + 1, url, self._shared, self._forget)
        self._last += 1
        self._default_url = url
        with self._lock:
            self._open[connection.number] = connection
            self._current = connection.number
        if connection.client.closed:
            # It was told of before there was one to be forgotten.
            self._forget(connection)
        connection.ask_uris()
        return connection

    def all(self) -> list[ClientConnection]:
        """Return them in the order of their numbers."""
        with self._lock:
            return list(self._open.values())

    def find_current(self) -> ClientConnection | None:
        """Return the current one, if there is any."""
        with self._lock:
            return self._open.get(self._current or 0)

    @property
    def current(self) -> ClientConnection:
        """The current one.

        Raises:
            Mistake: there is none.
        """
        found = self.find_current()
        if found is None:
            raise Mistake(
                f"there is no connection; connect makes one, to {shown(self._default_url)} unless told otherwise"
            )
        return found

    def find(self, number: int | None) -> ClientConnection:
        """Return the one with a number, the current one without.

        Raises:
            Mistake: there is none.
        """
        if number is None:
            return self.current
        with self._lock:
            if number in self._open:
                return self._open[number]
        raise Mistake(f"there is no connection {number}; list shows those that are")

    def use(self, number: int) -> ClientConnection:
        """Make another one the current one.

        Raises:
            Mistake: there is none.
        """
        connection = self.find(number)
        with self._lock:
            self._current = number
        return connection

    def close(self) -> None:
        """End all, at the same time, and wait until they have."""
        closing = [threading.Thread(target=each.close, daemon=True) for each in self.all()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def names(self) -> Names:
        """Return what is known for completion, and see that more will be, for the next time."""
        shared, current = self._shared, self.find_current()
        served = {}
        subscribed: list[tuple[str, bool]] = []
        if current is not None:
            current.ask_uris()
            served = current.served
            subscribed = list(current.subscriptions)
        return Names(
            uris={**dict.fromkeys(shared.uris.all(), ""), **served},
            channels=shared.channels.all(),
            patterns=shared.patterns.all(),
            subscribed=[channel for channel, pattern in subscribed if not pattern],
            subscribed_patterns=[channel for channel, pattern in subscribed if pattern],
            connections={str(each.number): each.url for each in self.all()},
            urls=shared.urls.all(),
        )

    def _forget(self, connection: ClientConnection) -> None:
        with self._lock:
            self._open.pop(connection.number, None)
            if self._current == connection.number:
                self._current = max(self._open, default=None)
