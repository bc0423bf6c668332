"""``juggler pub``: publish one event."""

from __future__ import annotations

import click

from juggler.cli.parameters import (
    SECONDS,
    TakesNegativeNumbers,
    headers_option,
    json_argument,
    url_option,
    verbose_option,
)
from juggler.client import Client


@click.command(cls=TakesNegativeNumbers)
@click.argument("channel")
@json_argument
@url_option
@headers_option
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=SECONDS,
    default=10.0,
    show_default=True,
    help="Timeout in seconds for connecting, and for the acknowledgement.",
)
@verbose_option
def command(channel: str, args: bytes, url: str, headers: dict[str, str], timeout: float) -> None:
    """Publish JSON on CHANNEL, and wait for the acknowledgement of the server.

    JSON is by default null. @FILE reads it from a file, - from standard input. It is sent exactly as written.

    \b
    Exit codes:
      0    published
      2    invalid option or argument
      3    the server refused the event
      4    timeout
      5    cannot connect, or the connection was lost
    """
    with Client(url, timeout=timeout, headers=headers) as client:
        client.publish_json(channel, args)
