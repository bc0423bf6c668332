"""Which ends have a new beginning, when it is tried, and for how long."""

from __future__ import annotations

import pytest
from websockets.frames import Close

from juggler.client.reconnect import FIRST_PAUSE, STABLE, Reconnect, after_attempt, end_of, may_come_back
from juggler.errors import ConfigError, ConnectionClosed, HandshakeRefused


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 4408, 4429])
def test_ends_that_are_worth_another_connection(code):
    assert may_come_back(ConnectionClosed(code, ""))


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 4400, 4403])
def test_ends_that_were_meant(code):
    assert not may_come_back(ConnectionClosed(code, ""))


@pytest.mark.parametrize(("status", "again"), [("401 Unauthorized", False), ("404 Not Found", False), ("408 x", True)])
def test_refused_handshakes(status, again):
    assert may_come_back(HandshakeRefused(status, "no")) is again
    assert may_come_back(HandshakeRefused("503 Service Unavailable", "no"))
    assert not may_come_back(ConfigError("url"))


def test_an_end_is_the_servers_ours_or_none():
    assert str(end_of(Close(4429, "slow"), Close(1000, ""))) == "4429 slow"
    assert str(end_of(None, Close(1009, "too big"))) == "1009 the server broke the protocol: too big"
    assert str(end_of(None, Close(1000, ""))) == "1006 the connection was lost: the server is gone"
    assert str(end_of(None, None, OSError("reset"))) == "1006 the connection was lost: reset"
    assert str(end_of(None, Close(1011, "keepalive"))) == "1006 the connection was lost: keepalive"


def test_pauses_and_patience_begin_anew_after_a_connection_that_has_lived():
    reconnect = Reconnect(10.0)
    reconnect.on_connected(100.0)
    reconnect.on_lost(101.0)
    pauses = [reconnect.next_pause() for _ in range(4)]
    assert pauses[3] > 2 * pauses[0]
    assert (reconnect.is_over(109.9), reconnect.is_over(110.0)) == (False, True)
    reconnect.on_connected(105.0)
    reconnect.on_lost(105.0 + STABLE / 2)
    assert reconnect.next_pause() > pauses[0]
    assert reconnect.is_over(110.0)
    reconnect.on_connected(105.0)
    reconnect.on_lost(105.0 + STABLE)
    assert reconnect.next_pause() <= 1.5 * FIRST_PAUSE
    assert not reconnect.is_over(115.0)
    assert not Reconnect(None).is_over(1e9)


def test_a_failed_attempt_says_why_there_is_no_connection():
    lost = ConnectionClosed(1001, "shutting down")
    closed = ConnectionClosed(1006, "cannot connect")
    assert after_attempt(closed, lost) is closed
    assert str(after_attempt(HandshakeRefused("401 Unauthorized", "who?"), lost)) == "1001 401 Unauthorized: who?"
    assert str(after_attempt(KeyError("token"), lost)) == "1006 KeyError: 'token'"
