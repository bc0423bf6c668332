"""Names of the keys and channels in Redis. PURE.

The braces are literal: they make a list and its calls' timeout keys fall into one slot of a Redis Cluster.
"""

from __future__ import annotations

import re


class Names:
    """Makes the names of one deployment: all that it has in Redis begins with its prefix."""

    def __init__(self, prefix: str = "") -> None:
        """Make names that begin with ``prefix``.

        Raises:
            ValueError: it has braces, which would replace those of the keys, or is not valid Unicode.
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
        """Return the key that exists while a call is still wanted."""
        return f"{self._prefix}juggler:calls:timeout:{{{uri}}}:{msg_uuid}".encode()

    def call_keys(self, uri: str, msg_uuid: str) -> tuple[bytes, bytes]:
        """Return `call_timeout` and `calls` of a call."""
        return (
            f"{self._prefix}juggler:calls:timeout:{{{uri}}}:{msg_uuid}".encode(),
            f"{self._prefix}juggler:calls:{{{uri}}}".encode(),
        )

    def results(self, conn_uuid: str) -> bytes:
        """Return the key of the list of results for one consumer."""
        return f"{self._prefix}juggler:results:{{{conn_uuid}}}".encode()

    def result_timeout(self, conn_uuid: str, msg_uuid: str) -> bytes:
        """Return the key that exists while a result is still wanted."""
        return f"{self._prefix}juggler:results:timeout:{{{conn_uuid}}}:{msg_uuid}".encode()

    def callees(self, uri: str) -> bytes:
        """Return the key of the set of callees that serve a URI; it exists as long as there is one."""
        return f"{self._prefix}juggler:callees:{{{uri}}}".encode()

    def announcement(self, uri: str, callee_id: str) -> bytes:
        """Return the key of what one callee says of a URI."""
        return f"{self._prefix}juggler:callees:{{{uri}}}:{callee_id}".encode()

    @property
    def uris(self) -> bytes:
        """The key of the set of all URIs that are served, for lists of them."""
        return self._bytes + b"juggler:uris"

    @property
    def version(self) -> bytes:
        """The key by which a server's version is found out: no URI's list, and never there."""
        return self._bytes + b"juggler:version"

    @property
    def proofs(self) -> bytes:
        """What keys begin with that live for a moment, to prove that two connections lead to the same server."""
        return self._bytes + b"juggler:proof:"

    def channel(self, channel: str) -> bytes:
        """Return Redis's name of a channel."""
        return self._bytes + channel.encode()

    def pattern(self, pattern: str) -> bytes:
        """Return Redis's pattern of channels."""
        return self._as_pattern + pattern.encode()

    def channel_of(self, name: bytes) -> str:
        """Return the channel from Redis's name.

        Raises:
            UnicodeDecodeError: it is not valid Unicode.
        """
        return name[len(self._bytes) :].decode()

    def pattern_of(self, name: bytes) -> str:
        """Return the pattern from Redis's pattern."""
        return name[len(self._as_pattern) :].decode()
