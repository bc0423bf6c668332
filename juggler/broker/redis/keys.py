"""Names of the keys and channels in Redis. PURE.

The braces are literal: they put a list and the timeout keys of its calls into one slot of a Redis Cluster.
"""

from __future__ import annotations

import re


class Names:
    """Names of one deployment: all its keys and channels begin with its prefix."""

    def __init__(self, prefix: str = "") -> None:
        """Create names that begin with ``prefix``.

        Raises:
            ValueError: it contains braces, which would replace those of the keys, or is not valid Unicode.
        """
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"key_prefix: expected no braces, got {prefix!r}")
        self._prefix = prefix
        self._bytes = prefix.encode()
        self._as_pattern = re.sub(rb"([*?\[\]\\^-])", rb"\\\1", self._bytes)

    def calls(self, uri: str) -> bytes:
        """Return the key of the list of calls to a URI."""
        return f"{self._prefix}juggler:calls:{{{uri}}}".encode()

    def call_timeout(self, uri: str, msg_uuid: str) -> bytes:
        """Return the key that exists while a call is wanted."""
        return f"{self._prefix}juggler:calls:timeout:{{{uri}}}:{msg_uuid}".encode()

    def call_keys(self, uri: str, msg_uuid: str) -> tuple[bytes, bytes]:
        """Return `call_timeout` and `calls` of a call."""
        return (
            f"{self._prefix}juggler:calls:timeout:{{{uri}}}:{msg_uuid}".encode(),
            f"{self._prefix}juggler:calls:{{{uri}}}".encode(),
        )

    def cancelled(self, uri: str, msg_uuid: str) -> bytes:
        """Return the key that exists for the rest of the time of a cancelled call."""
        return f"{self._prefix}juggler:calls:cancelled:{{{uri}}}:{msg_uuid}".encode()

    def control(self, callee_id: str) -> bytes:
        """Return the key of the list of control messages for one callee or server process."""
        return f"{self._prefix}juggler:control:{{{callee_id}}}".encode()

    def alive(self, callee_id: str) -> bytes:
        """Return the key that exists while a callee process lives."""
        return f"{self._prefix}juggler:callee:{{{callee_id}}}".encode()

    @property
    def servers(self) -> bytes:
        """The key of the set of all server processes."""
        return self._bytes + b"juggler:servers"

    def server(self, server_id: str) -> bytes:
        """Return the key that exists while a server process lives, and describes it."""
        return f"{self._prefix}juggler:server:{{{server_id}}}".encode()

    def replies(self, reply: str) -> bytes:
        """Return the key of the list of answers to one command to servers."""
        return f"{self._prefix}juggler:replies:{{{reply}}}".encode()

    def results(self, conn_uuid: str) -> bytes:
        """Return the key of the list of results for one consumer."""
        return f"{self._prefix}juggler:results:{{{conn_uuid}}}".encode()

    def result_timeout(self, conn_uuid: str, msg_uuid: str) -> bytes:
        """Return the key that exists while a result is wanted."""
        return f"{self._prefix}juggler:results:timeout:{{{conn_uuid}}}:{msg_uuid}".encode()

    def callees(self, uri: str) -> bytes:
        """Return the key of the set of callees of a URI, which exists while there is one."""
        return f"{self._prefix}juggler:callees:{{{uri}}}".encode()

    def announcement(self, uri: str, callee_id: str) -> bytes:
        """Return the key of the announcement of a URI by one callee."""
        return f"{self._prefix}juggler:callees:{{{uri}}}:{callee_id}".encode()

    @property
    def collections(self) -> bytes:
        """The pattern of the keys of all lists and sets, except for `uris`. Few other keys match it."""
        return self._as_pattern + b"juggler:*:{*}"

    def uri_of_calls(self, key: bytes) -> str | None:
        """Return the URI of a list of calls, ``None`` for other keys."""
        start = self._bytes + b"juggler:calls:{"
        try:
            return key[len(start) : -1].decode() if key.startswith(start) else None
        except UnicodeDecodeError:
            return None

    @property
    def uris(self) -> bytes:
        """The key of the set of all announced URIs, for listings."""
        return self._bytes + b"juggler:uris"

    @property
    def version(self) -> bytes:
        """The key of commands that detect the version of a server; it never exists."""
        return self._bytes + b"juggler:version"

    @property
    def proofs(self) -> bytes:
        """The prefix of short-lived keys: they prove that two connections lead to the same server, and that it was not
        emptied."""
        return self._bytes + b"juggler:proof:"

    def channel(self, channel: str) -> bytes:
        """Return the name of a channel in Redis."""
        return self._bytes + channel.encode()

    def pattern(self, pattern: str) -> bytes:
        """Return a pattern of channels in Redis."""
        return self._as_pattern + pattern.encode()

    def channel_of(self, name: bytes) -> str:
        """Return the channel with a name in Redis.

        Raises:
            UnicodeDecodeError: the name is not valid Unicode.
        """
        return name[len(self._bytes) :].decode()

    def pattern_of(self, name: bytes) -> str:
        """Return the pattern that is a pattern in Redis."""
        return name[len(self._as_pattern) :].decode()
