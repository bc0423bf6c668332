"""``juggler sub``: print events as they come."""

from __future__ import annotations

import json
import queue
import threading
from typing import TypeAlias

import click

from juggler.cli.parameters import SECONDS, headers_option, url_option, verbose_option
from juggler.cli.printing import one_line
from juggler.client import Client, Event, Subscription
from juggler.errors import ConnectionClosed, Expired

QUEUE_LENGTH = 100

Received: TypeAlias = "queue.Queue[Event | ConnectionClosed]"


@click.command()
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@url_option
@headers_option
@click.option("--pattern", is_flag=True, help="The channels are Redis globs, such as 'news.*'.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--timeout", type=SECONDS, help="End with exit code 4 when no event came for so many seconds.")
@verbose_option
def command(
    channels: tuple[str, ...],
    url: str,
    headers: dict[str, str],
    pattern: bool,
    count: int | None,
    timeout: float | None,
) -> None:
    """Print the events of one or more channels, a line of JSON for each: {"channel", "pattern", "args"}.

    The pattern is there only when one matched. Runs until Ctrl-C, which is its normal end, or until --count.
    When the server has confirmed the subscriptions, a line on standard error says so.

    \b
    Exit codes:
      0    ended by --count or Ctrl-C
      2    a wrong option or argument
      3    the server refused a subscription
      4    no event for --timeout seconds, or no acknowledgement
      5    no connection, or the connection was lost
    """
    subscriptions: list[Subscription] = []
    # Whoever reads is to know that events may be missing; a loop of the shell connects again.
    with Client(url, headers=headers, reconnect=False) as client:
        try:
            subscriptions.extend(client.subscribe(channel, pattern) for channel in channels)
            click.echo(f"subscribed to {', '.join(channels)}", err=True)
            _print(_merged(subscriptions), count, timeout)
        except KeyboardInterrupt:
            pass
        finally:
            dropped = sum(subscription.dropped for subscription in subscriptions)
            if dropped:
                click.echo(f"{dropped} events came faster than they were read, and were dropped", err=True)


def _merged(subscriptions: list[Subscription]) -> Received:
    received: Received = queue.Queue(QUEUE_LENGTH)
    for subscription in subscriptions:
        threading.Thread(target=_forward, args=(subscription, received), daemon=True).start()
    return received


def _forward(subscription: Subscription, received: Received) -> None:
    try:
        while True:
            received.put(subscription.get())
    except ConnectionClosed as error:
        received.put(error)


def _print(received: Received, count: int | None, timeout: float | None) -> None:
    printed = 0
    while printed != count:
        try:
            event = received.get(timeout=timeout)
        except queue.Empty:
            raise Expired(f"no event within {timeout:g} s") from None
        if isinstance(event, ConnectionClosed):
            raise event
        click.echo(_line(event))
        printed += 1


def _line(event: Event) -> str:
    names = {"channel": event.channel, "pattern": event.pattern}
    members = [f'"{name}": {json.dumps(value)}' for name, value in names.items() if value]
    return "{" + ", ".join([*members, f'"args": {one_line(event.json)}']) + "}"
