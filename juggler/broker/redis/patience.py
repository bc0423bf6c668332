"""What a command does at its start when there is no Redis: give up at once, or wait for it and say so."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from juggler.broker.redis.broker import RedisBroker
from juggler.errors import BrokerUnavailable, ConfigError
from juggler.process.backoff import pauses

DEFAULT_URL = "redis://127.0.0.1:6379"
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


def wait_for(broker: RedisBroker, say: Callable[[str], object], *, patient: bool, ways_out: str) -> None:
    """See that Redis answers.

    Args:
        broker: is connected then.
        say: told a line before each further attempt.
        patient: wait for it, with growing pauses; otherwise there is one attempt.
        ways_out: what people can do, for the error.

    Raises:
        ConfigError: it does not answer and nobody is patient, or it refuses us.
    """
    for pause in pauses(FIRST_PAUSE, LONGEST_PAUSE):
        try:
            broker.connect()
            return
        except BrokerUnavailable as error:
            if not patient:
                raise ConfigError(f"no Redis at {broker.shown_url}: {ways_out} ({error})") from error
            say(f"no Redis at {broker.shown_url} ({error}); next attempt in {pause:.1f} s")
        gevent.sleep(pause)
