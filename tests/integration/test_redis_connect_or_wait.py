"""At the start of a command: wait for Redis, or fail at once."""

from __future__ import annotations

import re

import gevent
import pytest

from juggler.broker.redis import RedisBroker, connect_or_wait
from juggler.errors import ConfigError
from juggler.process.backoff import pauses
from juggler.process.embedded import free_port


def test_pauses_grow_and_are_jittered():
    generated = pauses(1.0, 8.0)
    for middle in (1, 2, 4, 8, 8, 8):
        assert middle / 2 <= next(generated) <= middle * 1.5
    assert len({next(pauses(1.0, 8.0)) for _ in range(10)}) > 1


def test_without_waiting_there_is_one_attempt():
    broker = RedisBroker(f"redis://:secret@127.0.0.1:{free_port()}")
    reported: list[str] = []
    with pytest.raises(
        ConfigError, match=r"^no Redis at redis://:\*\*\*@127.0.0.1:\d+: start one \(.*refused"
    ) as error:
        connect_or_wait(broker, reported.append, wait=False, remedies="start one")
    assert reported == []
    assert "secret" not in str(error.value)
    broker.close()


def test_each_attempt_is_reported():
    broker = RedisBroker(f"redis://127.0.0.1:{free_port()}")
    reported: list[str] = []
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.8):
        connect_or_wait(broker, reported.append, wait=True, remedies="")
    assert len(reported) >= 2
    assert all(
        re.fullmatch(r"no Redis at redis://127.0.0.1:\d+ \(.*\), retrying in \d\.\d s", line) for line in reported
    )
    broker.close()
