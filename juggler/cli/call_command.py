"""``juggler call``: one call, its result on standard output."""

from __future__ import annotations

import click

from juggler.cli.parameters import (
    TakesNegativeNumbers,
    headers_option,
    json_argument,
    timeout_option,
    url_option,
    verbose_option,
)
from juggler.cli.printing import one_line
from juggler.client import Client
from juggler.client.state import result_value


@click.command(cls=TakesNegativeNumbers)
@click.argument("uri")
@json_argument
@url_option
@headers_option
@timeout_option
@verbose_option
def command(uri: str, args: bytes, url: str, headers: dict[str, str], timeout: float) -> None:
    """Call the function at URI, and print its result as one line of JSON.

    JSON is its argument, null when absent; @FILE takes it from a file, - from standard input. It travels as it is
    written.

    \b
    Exit codes:
      0    done
      1    the function failed
      2    a wrong option or argument
      3    the server refused the call
      4    no result in time
      5    no connection, or the connection was lost
    """
    with Client(url, headers=headers) as client:
        response = client.start_call_json(uri, args, timeout).response()
    result_value(response)
    click.echo(one_line(response.args))
