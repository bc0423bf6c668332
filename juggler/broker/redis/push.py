"""How a payload gets into a list in Redis: its timeout key, the list, and the list's own expiry. PURE.

A list must not outlive its calls, and must not end before the last of them. ``PEXPIRE … NX`` gives a new list a time to
live, ``PEXPIRE … GT`` raises it for a longer call; these two commands cost Redis 1 µs, a script for all four 3 µs.
A script is needed where a capacity is set, and for servers before Redis 7, which know neither ``NX`` nor ``GT``.
"""

from __future__ import annotations

import hashlib

from juggler.broker.redis.resp import pack

_PLAIN = (
    b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nPX\r\n$%d\r\n%b\r\n"
    b"*3\r\n$5\r\nLPUSH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
    b"*4\r\n$7\r\nPEXPIRE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nNX\r\n"
    b"*4\r\n$7\r\nPEXPIRE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nGT\r\n"
)

OVER_CAPACITY = -1
"""What the script returns, in place of the list's length, when the list is full."""

SCRIPT = b"""\
local ttl, capacity = tonumber(ARGV[1]), tonumber(ARGV[3])
if capacity > 0 and redis.call('LLEN', KEYS[2]) >= capacity then return -1 end
redis.call('SET', KEYS[1], ttl, 'PX', ttl)
local length = redis.call('LPUSH', KEYS[2], ARGV[2])
if redis.call('PTTL', KEYS[2]) < ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return length
"""

_SHA1 = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()


def plain(timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int) -> bytes:
    """Pack the four commands that store ``payload``; the second one's reply is the list's length."""
    ttl = b"%d" % ttl_ms
    ttl_len, list_len = len(ttl), len(list_key)
    return _PLAIN % (
        len(timeout_key), timeout_key, ttl_len, ttl, ttl_len, ttl,
        list_len, list_key, len(payload), payload,
        list_len, list_key, ttl_len, ttl,
        list_len, list_key, ttl_len, ttl,
    )  # fmt: skip


def script(timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int, capacity: int, *, known: bool) -> bytes:
    """Pack the one command that stores ``payload`` in a list of at most ``capacity`` entries (0: of any length).

    Its reply is the list's length, or `OVER_CAPACITY`. ``known`` tells whether the server has seen the script before:
    if it has not after all, it answers ``NOSCRIPT`` and has done nothing.
    """
    name = (b"EVALSHA", _SHA1) if known else (b"EVAL", SCRIPT)
    return pack(*name, 2, timeout_key, list_key, ttl_ms, payload, capacity)
