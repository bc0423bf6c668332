"""Fixtures for all tests: a private Redis, and leak checks."""

from __future__ import annotations

import fnmatch
import os
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress

import gevent
import pytest
import redis

from juggler.process.embedded import EmbeddedRedis, bundled_server
from tests.redis_cluster import RedisCluster
from tests.support import is_kept

LEAK_DEADLINE = 1.0
DESCRIPTORS = 1024  # checked for watchers

# Announcements of a killed callee expire within seconds: tests/integration/test_announcing.py.
EXPIRE_SOON = ("*juggler:uris", "*juggler:callees:*", "*juggler:proof:*", "*juggler:callee:*", "*juggler:server*")

_spawned: weakref.WeakSet[gevent.Greenlet] = weakref.WeakSet()
gevent.Greenlet.add_spawn_callback(_spawned.add)
_reported: set[int] = set()  # descriptors that a failed test left watched


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A private Redis, one per test process; ``JUGGLER_TEST_SERVER`` is the path of another binary."""
    with EmbeddedRedis(os.environ.get("JUGGLER_TEST_SERVER") or bundled_server()) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty database. The test must leave no keys, except those that its marker ``leaves_keys`` permits."""
    allowed = [p for marker in request.node.iter_markers("leaves_keys") for p in marker.args]
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        client.flushall()
    yield redis_server.url
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        left = _wait_for_none(lambda: _keys_left(client, allowed))
    assert not left, f"the test left keys in Redis: {left}"


@pytest.fixture(scope="session")
def cluster_servers() -> Iterator[RedisCluster]:
    """A cluster of three masters, one per test process."""
    cluster = RedisCluster()
    yield cluster
    cluster.stop()


@pytest.fixture
def redis_cluster(cluster_servers: RedisCluster) -> Iterator[RedisCluster]:
    """An empty cluster. The test must leave no keys."""
    cluster_servers.flush()
    yield cluster_servers
    left = _wait_for_none(lambda: [key for key, ttl in cluster_servers.ttls().items() if is_kept(key, ttl)])
    cluster_servers.settle()
    assert not left, f"the test left keys in the cluster: {left}"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves greenlets running, sockets open, or gevent watching descriptors that are closed."""
    greenlets = set(_live_greenlets())
    sockets = set(_open_sockets())
    yield
    left = _wait_for_none(lambda: [g for g in _live_greenlets() if g not in greenlets])
    assert not left, f"the test left greenlets: {left}"
    open_ = _wait_for_none(lambda: [s for s in _open_sockets() if s not in sockets])
    assert not open_, f"the test left {len(open_)} sockets open (descriptor, inode): {open_}"
    watched = _wait_for_none(lambda: [number for number in _watched_but_closed() if number not in _reported])
    _reported.update(watched)
    assert not watched, f"the test left gevent watching descriptors that are closed: {watched}"


def _wait_for_none(find):
    deadline = time.monotonic() + LEAK_DEADLINE
    while (found := find()) and time.monotonic() < deadline:
        gevent.sleep(0.005)
    return found


def _live_greenlets() -> list[gevent.Greenlet]:
    return [g for g in list(_spawned) if not g.dead]


def _open_descriptors() -> Iterator[tuple[int, os.stat_result]]:
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the directory itself is closed again
            yield int(name), os.fstat(int(name))


def _open_sockets() -> list[tuple[int, int]]:
    return [(number, status.st_ino) for number, status in _open_descriptors() if stat.S_ISSOCK(status.st_mode)]


def _watched_but_closed() -> list[int]:
    """Return closed descriptors with active watchers.

    gevent delays closing a socket while its number is watched, until the loop has woken for another reason. The next
    socket with such a number may thus stay open for ever.
    """
    open_ = {number for number, _ in _open_descriptors()}
    loop = gevent.get_hub().loop
    return [number for number in range(DESCRIPTORS) if number not in open_ and loop.closing_fd(number)]


def _keys_left(client: redis.Redis, allowed: list[str]) -> list[str]:
    keys = [key.decode(errors="backslashreplace") for key in client.keys("*") if is_kept(key, client.pttl(key))]
    return [key for key in keys if not any(fnmatch.fnmatchcase(key, p) for p in (*EXPIRE_SOON, *allowed))]
