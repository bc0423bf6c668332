"""Whether the Redis of a server is there, and what to do while it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from juggler.cli.config.load import Settings

if TYPE_CHECKING:
    from juggler.broker.redis import RedisBroker

WAYS_OUT = "start Redis, name another with --redis or REDIS_URL, or try juggler demo"


def is_patient(settings: Settings) -> bool:
    """Return whether Redis is waited for. One that nobody named is not."""
    is_named = bool(settings["redis.url"] or settings["redis.caller_url"])
    return is_named and not settings["redis.fail_fast"]


def wait_for_redis(settings: Settings, caller: RedisBroker, pubsub: RedisBroker) -> None:
    """See that Redis is there, and say so while it is waited for.

    Raises:
        ConfigError: it is not, and is not waited for; or it refuses us.
    """
    from juggler.broker.redis import wait_for

    def say(line: str) -> None:
        click.echo(f"juggler server: {line}", err=True)

    wait_for(caller, say, patient=is_patient(settings), ways_out=WAYS_OUT)
    if pubsub is not caller:
        wait_for(pubsub, say, patient=not settings["redis.fail_fast"], ways_out=WAYS_OUT)
