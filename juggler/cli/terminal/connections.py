"""The connections of a terminal, numbered in the order of creation; one of them is current."""

from __future__ import annotations

import threading

from juggler.cli.terminal.client_connection import ClientConnection, Shared
from juggler.cli.terminal.completion import Names
from juggler.cli.terminal.grammar import InputError
from juggler.client.opening import shown


class Connections:
    """The connections that are open or reconnecting."""

    def __init__(self, shared: Shared, default_url: str) -> None:
        self._shared = shared
        self._default_url = default_url
        self._open: dict[int, ClientConnection] = {}
        self._current: int | None = None
        self._last = 0
        self._lock = threading.Lock()

    def connect(self, url: str | None) -> ClientConnection:
        """Open a connection and make it current.

        Args:
            url: by default that of the previous connection.

        Raises:
            JugglerError: as `juggler.client.Client`.
        """
        url = url or self._default_url
        if shown(url) == url:  # not completed if it contains a password
            self._shared.urls.add(url)
        connection = ClientConnection(self._last + 1, url, self._shared, self._forget)
        self._last += 1
        self._default_url = url
        with self._lock:
            self._open[connection.number] = connection
            self._current = connection.number
        if connection.client.closed:
            # It closed before it was added, when _forget had no effect.
            self._forget(connection)
        connection.refresh_catalogue()
        return connection

    def all(self) -> list[ClientConnection]:
        """Return the connections in the order of their numbers."""
        with self._lock:
            return list(self._open.values())

    def find_current(self) -> ClientConnection | None:
        """Return the current connection, if any."""
        with self._lock:
            return self._open.get(self._current or 0)

    @property
    def current(self) -> ClientConnection:
        """The current connection.

        Raises:
            InputError: there is none.
        """
        found = self.find_current()
        if found is None:
            raise InputError(f"no connection; type connect to open one to {shown(self._default_url)}")
        return found

    def find(self, number: int | None) -> ClientConnection:
        """Return the connection with a number, or the current one for None.

        Raises:
            InputError: there is none.
        """
        if number is None:
            return self.current
        with self._lock:
            if number in self._open:
                return self._open[number]
        raise InputError(f"no connection {number}; type list to show the connections")

    def use(self, number: int) -> ClientConnection:
        """Make another connection current.

        Raises:
            InputError: there is none.
        """
        connection = self.find(number)
        with self._lock:
            self._current = number
        return connection

    def close(self) -> None:
        """Close all connections concurrently, and wait for them."""
        closing = [threading.Thread(target=each.close, daemon=True) for each in self.all()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def names(self) -> Names:
        """Return the names for completion, and refresh the catalogue for the next time."""
        shared, current = self._shared, self.find_current()
        signatures = {}
        subscribed: list[tuple[str, bool]] = []
        if current is not None:
            current.refresh_catalogue()
            signatures = current.signatures
            subscribed = list(current.subscriptions)
        return Names(
            uris={**dict.fromkeys(shared.uris.all(), ""), **signatures},
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
