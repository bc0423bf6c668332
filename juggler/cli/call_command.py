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
from juggler.cli.uri_completion import complete_call
from juggler.client import Client
from juggler.protocol.messages import Res
from juggler.protocol.results import result_value


@click.command(cls=TakesNegativeNumbers)
@click.argument("uri", shell_complete=complete_call)
@json_argument
@url_option
@headers_option
@timeout_option
@click.option("--stream", is_flag=True, help="Print the parts of the result as they arrive.")
@verbose_option
def command(uri: str, args: bytes, url: str, headers: dict[str, str], timeout: float, stream: bool) -> None:
    """Call the function registered at URI, and print its result as one line of JSON.

    JSON is the argument of the function, by default null. @FILE reads it from a file, - from standard input. It is
    sent exactly as written.

    With --stream, each part of the result is printed as one line of JSON, and the result as the last line. --timeout
    then counts from part to part. Ctrl-C cancels the call.

    \b
    Exit codes:
      0    success
      1    the function raised an error
      2    invalid option or argument
      3    the server refused the call, or does not support --stream
      4    timeout
      5    cannot connect, or the connection was lost
      130  cancelled by Ctrl-C
      141  the reader of the output has closed it
    """
    with Client(url, headers=headers) as client:
        response = _stream(client, uri, args, timeout) if stream else _call(client, uri, args, timeout)
    result_value(response)
    click.echo(one_line(response.args))


def _call(client: Client, uri: str, args: bytes, timeout: float) -> Res:
    pending = client.start_call_json(uri, args, timeout)
    try:
        return pending.response()
    except KeyboardInterrupt:
        # Explicitly: a server may be configured not to cancel the calls of connections that close.
        pending.cancel()
        raise


def _stream(client: Client, uri: str, args: bytes, timeout: float) -> Res:
    with client.stream_json(uri, args, timeout) as stream:
        while (part := stream.next_json()) is not None:
            click.echo(one_line(part))
        return stream.response()
