"""Commands in the Redis serialisation protocol. PURE.

A payload may need a command that stores its timeout key. Then one command pushes all that goes to a list in one turn of
gevent's loop, and two prolong the list, which must not expire before the last of its payloads: ``PEXPIRE … NX`` sets
the expiry of a new list and ``PEXPIRE … GT`` raises it. A script that does everything for one payload costs Redis 3 µs.
It is used for servers before Redis 7, which support neither ``NX`` nor ``GT``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from hiredis import pack_command

ASKING = b"*1\r\n$6\r\nASKING\r\n"
PING = b"*1\r\n$4\r\nPING\r\n"

PTTL = b"*2\r\n$4\r\nPTTL\r\n"
"""To be followed by a `packed_key`."""

_SET = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n%b"
_FOR_MS = b"$%d\r\n%b\r\n$2\r\nPX\r\n$%d\r\n%b\r\n"
_LPUSH = b"$5\r\nLPUSH\r\n$%d\r\n%b\r\n"
_ARGUMENT = b"$%d\r\n%b\r\n"
_PEXPIRE = (
    b"*4\r\n$7\r\nPEXPIRE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nNX\r\n"
    b"*4\r\n$7\r\nPEXPIRE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nGT\r\n"
)

CALLS_TTL = 3600.0
"""Seconds for which a list of calls lives at least after a push: it may contain calls of servers that set no expiry."""

RESULTS_TTL = 10.0
"""The same for a list of results. Its reader needs less to reconnect."""

CONTROL_CAPACITY = 10_000
"""Maximum number of control messages in the list of a process. The oldest are dropped."""

CONTROL_TTL_MS = 10_000
"""Milliseconds for which a list of control messages lives after a push."""

OVER_CAPACITY = -1
"""The script's reply, instead of the list's length, when the list is full."""

SCRIPT = b"""\
local ttl, capacity, list_ttl = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
if capacity > 0 and redis.call('LLEN', KEYS[2]) >= capacity then return -1 end
if ttl > 0 then redis.call('SET', KEYS[1], ttl, 'PX', ttl) end
local length = redis.call('LPUSH', KEYS[2], ARGV[2])
if redis.call('PTTL', KEYS[2]) < list_ttl then redis.call('PEXPIRE', KEYS[2], list_ttl) end
return length
"""

_SHA1 = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()


def pack(*command: bytes | str | int) -> bytes:
    """Return a command and its arguments as Redis reads them."""
    packed: bytes = pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


def set_timeout(timeout_key: bytes, ttl_ms: int) -> bytes:
    """Pack the command that stores the timeout key of a payload."""
    return _SET % (len(timeout_key), timeout_key, _for_ms(ttl_ms))


def push(list_key: bytes, payloads: Sequence[bytes]) -> bytes:
    """Pack the command that pushes payloads, the first one first; the reply is the length of the list after it."""
    packed = [b"*%d\r\n%b" % (len(payloads) + 2, _lpush(list_key))]
    packed += [_ARGUMENT % (len(payload), payload) for payload in payloads]
    return b"".join(packed)


@lru_cache(1024)
def _for_ms(ttl_ms: int) -> bytes:
    """Return the end of the ``SET`` of a timeout key: its value and its expiry are the same."""
    ttl = b"%d" % ttl_ms
    return _FOR_MS % (len(ttl), ttl, len(ttl), ttl)


@lru_cache(1024)
def _lpush(key: bytes) -> bytes:
    """Return the beginning of the ``LPUSH`` to a list, after the number of arguments."""
    return _LPUSH % (len(key), key)


@lru_cache(1024)
def prolong(key: bytes, ttl_ms: int) -> bytes:
    """Pack the two commands after which a list lives for ``ttl_ms`` or longer."""
    size, ttl = len(key), b"%d" % ttl_ms
    return _PEXPIRE % (size, key, len(ttl), ttl, size, key, len(ttl), ttl)


def push_by_script(
    timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int, list_ttl_ms: int, capacity: int, *, known: bool
) -> bytes:
    """Pack one command that pushes ``payload`` to a list of at most ``capacity`` entries (0 = unlimited).

    Without a timeout key, ``ttl_ms`` is 0.

    The reply is the length of the list, or `OVER_CAPACITY`.

    Args:
        known: send only the script's hash. A server that does not know it replies ``NOSCRIPT`` and executes nothing.
    """
    name = (b"EVALSHA", _SHA1) if known else (b"EVAL", SCRIPT)
    return pack(*name, 2, timeout_key or list_key, list_key, ttl_ms, payload, capacity, list_ttl_ms)


def push_control(key: bytes, text: bytes) -> list[bytes]:
    """Pack the three commands that push a control message to the list of a process."""
    return [
        pack(b"LPUSH", key, text),
        pack(b"PEXPIRE", key, CONTROL_TTL_MS),
        pack(b"LTRIM", key, 0, CONTROL_CAPACITY - 1),
    ]


def packed_key(key: bytes) -> bytes:
    """Return a key as one argument of a packed command, for `PTTL`, `mget`, `delete` and `pop_first`."""
    return _ARGUMENT % (len(key), key)


def mget(packed_keys: Sequence[bytes]) -> bytes:
    """Pack a command that returns the values of keys."""
    return b"*%d\r\n$4\r\nMGET\r\n%b" % (len(packed_keys) + 1, b"".join(packed_keys))


def delete(packed_keys: Sequence[bytes]) -> bytes:
    """Pack a command that deletes keys."""
    return b"*%d\r\n$3\r\nDEL\r\n%b" % (len(packed_keys) + 1, b"".join(packed_keys))


def pop_first(keys: int, packed_keys: bytes, count: int) -> bytes:
    """Pack a command that pops up to ``count`` payloads from the first of ``keys`` lists that has any."""
    head = b"*%d\r\n$5\r\nLMPOP\r\n$%d\r\n%d\r\n" % (keys + 5, len(str(keys)), keys)
    tail = b"$5\r\nRIGHT\r\n$5\r\nCOUNT\r\n$%d\r\n%d\r\n" % (len(str(count)), count)
    return head + packed_keys + tail
