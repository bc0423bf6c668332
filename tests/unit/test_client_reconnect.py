"""After which errors a client reconnects, after which pauses, and for how long."""

from __future__ import annotations

import pytest
from websockets.frames import Close

from juggler.client.reconnect import FIRST_PAUSE, LONGEST_PAUSE, MOVED_PAUSE, STABLE, Reconnect, end_of, is_temporary
from juggler.errors import ConfigError, ConnectionClosed, HandshakeRefused

GONE = ConnectionClosed(1006, "gone")


def doubled(first, longest):
    """Pauses without jitter."""
    while True:
        yield first
        first = min(2 * first, longest)


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 4401, 4408, 4411, 4429])
def test_temporary_close_codes(code):
    assert is_temporary(ConnectionClosed(code, ""))


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 4400, 4403, 4410])
def test_lasting_close_codes(code):
    assert not is_temporary(ConnectionClosed(code, ""))


@pytest.mark.parametrize(("status", "again"), [("401 Unauthorized", False), ("404 Not Found", False), ("408 x", True)])
def test_refused_handshakes(status, again):
    assert is_temporary(HandshakeRefused(status, "no")) is again
    assert is_temporary(HandshakeRefused("503 Service Unavailable", "no"))
    assert not is_temporary(ConfigError("url"))


def test_a_bug_of_the_users_is_temporary():
    assert is_temporary(KeyError("token"))


def test_the_reason_of_a_close_is_the_servers_the_clients_or_the_networks():
    assert str(end_of(Close(4429, "slow"), Close(1000, ""))) == "4429 slow"
    assert str(end_of(None, Close(1009, "too big"))) == "1009 the server broke the protocol: too big"
    assert str(end_of(None, Close(1000, ""))) == "1006 the connection was lost: the server is gone"
    assert str(end_of(None, None, OSError("reset"))) == "1006 the connection was lost: reset"
    assert str(end_of(None, Close(1011, "keepalive"))) == "1006 the connection was lost: keepalive"


def test_pauses_and_timeout_start_over_after_a_stable_connection():
    policy = Reconnect(True, 10.0, doubled)
    policy.on_connected(100.0)
    policy.on_lost(101.0)
    pauses = [policy.pause_after(GONE) for _ in range(8)]
    assert pauses == [FIRST_PAUSE * 2**n for n in range(7)] + [LONGEST_PAUSE]
    assert (policy.is_over(109.9), policy.is_over(110.0)) == (False, True)
    policy.on_connected(105.0)
    policy.on_lost(105.0 + STABLE / 2)
    assert policy.pause_after(GONE) == LONGEST_PAUSE
    assert policy.is_over(110.0)
    policy.on_connected(105.0)
    policy.on_lost(105.0 + STABLE)
    assert policy.pause_after(GONE) == FIRST_PAUSE
    assert not policy.is_over(115.0)


def test_a_client_that_is_sent_elsewhere_waits_longer_than_others_and_no_less_than_its_backoff():
    policy = Reconnect(True, None, doubled)
    moved = ConnectionClosed(4411, "")
    assert [policy.pause_after(moved) for _ in range(5)] == [MOVED_PAUSE] * 3 + [FIRST_PAUSE * 8, FIRST_PAUSE * 16]


def test_without_a_timeout_it_is_never_over():
    assert not Reconnect(True, None, doubled).is_over(1e9)


def test_a_client_that_must_not_reconnect_has_no_pause():
    assert Reconnect(False, None, doubled).pause_after(GONE) is None


def test_the_most_recent_failure_is_the_reason_why_there_is_no_connection():
    policy = Reconnect(True, None, doubled)
    policy.pause_after(lost := ConnectionClosed(1001, "shutting down"))
    assert policy.failure is lost
    assert policy.pause_after(HandshakeRefused("401 Unauthorized", "who?")) is None
    assert str(policy.failure) == "1001 401 Unauthorized: who?"
    assert policy.pause_after(KeyError("token")) == 2 * FIRST_PAUSE
    assert str(policy.failure) == "1006 KeyError: 'token'"
    policy.pause_after(closed := ConnectionClosed(1006, "cannot connect"))
    assert policy.failure is closed
