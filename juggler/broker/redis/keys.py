"""Names of the keys in Redis. PURE.

The braces are literal: they make a list and its calls' timeout keys fall into one slot of a Redis Cluster.
"""

from __future__ import annotations


def calls(uri: str) -> bytes:
    """Return the key of the list of calls to a URI."""
    return f"juggler:calls:{{{uri}}}".encode()


def call_timeout(uri: str, msg_uuid: str) -> bytes:
    """Return the key that exists while a call is still wanted."""
    return f"juggler:calls:timeout:{{{uri}}}:{msg_uuid}".encode()


def results(conn_uuid: str) -> bytes:
    """Return the key of the list of results for one consumer."""
    return f"juggler:results:{{{conn_uuid}}}".encode()


def result_timeout(conn_uuid: str, msg_uuid: str) -> bytes:
    """Return the key that exists while a result is still wanted."""
    return f"juggler:results:timeout:{{{conn_uuid}}}:{msg_uuid}".encode()
