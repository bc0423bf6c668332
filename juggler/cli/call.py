"""``juggler call``: one call, its result on standard output."""

from __future__ import annotations

from typing import Any

import click

from juggler.cli.options import SECONDS, json_argument, one_line, url_option, verbose_option
from juggler.client import Client
from juggler.session import result_value


@click.command()
@click.argument("uri")
@json_argument
@url_option
@click.option("--timeout", type=SECONDS, default=60.0, show_default=True, help="Seconds to wait for the result.")
@verbose_option
def command(uri: str, args: Any, url: str, timeout: float) -> None:
    """Call the function at URI, and print its result as one line of JSON.

    JSON is its argument, null when absent; - reads it from standard input. One that begins with a minus goes after --.

    \b
    Exit codes:
      0    done
      1    the function failed
      2    a wrong option or argument
      3    the server refused the call
      4    no result in time
      5    no connection, or the connection was lost
    """
    with Client(url) as client:
        response = client.start_call(uri, args, timeout).response()
    result_value(response)
    click.echo(one_line(response.args))
