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
    "--timeout", type=SECONDS, default=10.0, show_default=True, help="Seconds to connect, and to wait for the server."
)
@verbose_option
def command(channel: str, args: bytes, url: str, headers: dict[str, str], timeout: float) -> None:
    """Publish JSON on CHANNEL, and wait until the server has taken it.

    JSON is null when absent; @FILE takes it from a file, - from standard input. It travels as it is written.

    \b
    Exit codes:
      0    published
      2    a wrong option or argument
      3    the server refused it
      4    the server did not acknowledge it in time
      5    no connection, or the connection was lost
    """
    with Client(url, timeout=timeout, headers=headers) as client:
        client.publish_json(channel, args)
