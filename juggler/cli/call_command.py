"""``juggler call``: make one call and print its result."""

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


@click.command(cls=TakesNegativeNumbers, short_help="Call a function and print its result.")
@click.argument("uri")
@json_argument
@url_option
@headers_option
@timeout_option
@verbose_option
def command(uri: str, args: bytes, url: str, headers: dict[str, str], timeout: float) -> None:
    """Call the function registered at URI, and print its result as one line of JSON.

    JSON is the argument of the function, by default null. @FILE reads it from a file, - from standard input. It is
    sent exactly as written.

    \b
    Exit codes:
      0    success
      1    the function raised an error
      2    invalid option or argument
      3    the server refused the call
      4    timeout
      5    cannot connect, or the connection was lost
    """
    with Client(url, headers=headers) as client:
        response = client.start_call_json(uri, args, timeout).response()
    result_value(response)
    click.echo(one_line(response.args))
