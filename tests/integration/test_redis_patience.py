"""At the start of a command: wait for Redis, or give up at once."""

from __future__ import annotations

import re

import gevent
import pytest

from juggler.broker.redis import RedisBroker, wait_for
from juggler.errors import ConfigError
from juggler.process.backoff import pauses
from juggler.process.embedded import free_port


def test_pauses_grow_and_are_jittered():
    generated = pauses(1.0, 8.0)
    for middle in (1, 2, 4, 8, 8, 8):
        assert middle / 2 <= next(generated) <= middle * 1.5
    assert len({next(pauses(1.0, 8.0)) for _ in range(10)}) > 1


def test_the_impatient_give_up_after_one_attempt():
    broker = RedisBroker(f"redis://:secret@127.0.0.1:{free_port()}")
    said: list[str] = []
    with pytest.raises(
        ConfigError, match=r"^no Redis at redis://:\*\*\*@127.0.0.1:\d+: start one \(.*refused"
    ) as error:
        wait_for(broker, said.append, patient=False, ways_out="start one")
    assert said == []
    assert "secret" not in str(error.value)
    broker.close()


def test_the_patient_say_each_step():
    broker = RedisBroker(f"redis://127.0.0.1:{free_port()}")
    said: list[str] = []
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.8):
        wait_for(broker, said.append, patient=True, ways_out="")
    assert len(said) >= 2
    assert all(
        re.fullmatch(r"no Redis at redis://127.0.0.1:\d+ \(.*\); next attempt in \d\.\d s", line) for line in said
    )
    broker.close()
