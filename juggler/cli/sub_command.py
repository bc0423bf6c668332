"""``juggler sub``: print events as they arrive."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import suppress
from typing import TypeAlias

import click

from juggler.cli.parameters import SECONDS, headers_option, url_option, verbose_option
from juggler.cli.printing import one_line
from juggler.client import Client, Event, Subscription
from juggler.errors import Expired, JugglerError

QUEUE_LENGTH = 100

Received: TypeAlias = "queue.Queue[Event | JugglerError]"


@click.command()
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@url_option
@headers_option
@click.option("--pattern", is_flag=True, help="Treat each CHANNEL as a Redis glob, such as 'news.*'.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="Exit after N events.")
@click.option("--timeout", metavar="SECONDS", type=SECONDS, help="Exit with code 4 after SECONDS without an event.")
@verbose_option
def command(
    channels: tuple[str, ...],
    url: str,
    headers: dict[str, str],
    pattern: bool,
    count: int | None,
    timeout: float | None,
) -> None:
    """Print the events of one or more channels until Ctrl-C, each as one line of JSON.

    \b
    {"channel": "news.sport", "pattern": "news.*", "args": "hello"}

    The member pattern is present with --pattern only. When the server has acknowledged the subscriptions, a line on
    standard error confirms it.

    \b
    Exit codes:
      0    stopped by --count or Ctrl-C
      2    invalid option or argument
      3    the server refused or cancelled a subscription
      4    no event within --timeout, or no acknowledgement
      5    cannot connect, or the connection was lost
    """
    # No silent reconnect: the exit code reports that events may be missing, and a shell loop can reconnect.
    with suppress(KeyboardInterrupt), Client(url, headers=headers, reconnect=False) as client:
        _run(client, channels, pattern, count, timeout)


def _run(client: Client, channels: tuple[str, ...], pattern: bool, count: int | None, timeout: float | None) -> None:
    subscriptions: list[Subscription] = []
    try:
        subscriptions.extend(client.subscribe(channel, pattern) for channel in channels)
        click.echo(f"subscribed to {', '.join(channels)}", err=True)
        _print(_merged(subscriptions), count, timeout)
    finally:
        dropped = sum(subscription.dropped for subscription in subscriptions)
        if dropped:
            click.echo(f"juggler sub: {dropped} events dropped, because printing was too slow", err=True)


def _merged(subscriptions: list[Subscription]) -> Received:
    received: Received = queue.Queue(QUEUE_LENGTH)
    for subscription in subscriptions:
        threading.Thread(target=_forward, args=(subscription, received), daemon=True).start()
    return received


def _forward(subscription: Subscription, received: Received) -> None:
    try:
        while True:
            received.put(subscription.get())
    except JugglerError as error:
        received.put(error)


def _print(received: Received, count: int | None, timeout: float | None) -> None:
    printed = 0
    while printed != count:
        try:
            event = received.get(timeout=timeout)
        except queue.Empty:
            raise Expired(f"no event within {timeout:g} s") from None
        if isinstance(event, JugglerError):
            raise event
        click.echo(_line(event))
        printed += 1


def _line(event: Event) -> str:
    names = {"channel": event.channel, "pattern": event.pattern}
    members = [f'"{name}": {json.dumps(value)}' for name, value in names.items() if value]
    return "{" + ", ".join([*members, f'"args": {one_line(event.json)}']) + "}"
