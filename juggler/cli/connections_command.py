"""``juggler connections``: list the connections of all servers."""

from __future__ import annotations

import time
from typing import Any

import click

from juggler.cli.parameters import verbose_option
from juggler.cli.redis_options import backend_at, check_complete, redis_options, target_options
from juggler.cli.tables import age, print_table
from juggler.protocol.codec import encode_args
from juggler.protocol.server_commands import LISTED, MAX_LISTED, ConnectionInfo

_HEADERS = ("connection", "identity", "address", "age", "subprotocol", "calls", "subscriptions")


@click.command()
@target_options
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(0, MAX_LISTED),
    default=LISTED,
    show_default=True,
    help=f"Maximum number of connections to list, at most {MAX_LISTED}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per connection.")
@redis_options("servers")
@verbose_option
def command(
    identity: Any,
    connection: str | None,
    timeout: float,
    limit: int,
    as_json: bool,
    url: str | None,
    key_prefix: str,
) -> None:
    """List connections, the oldest first: identifier, caller identity, address, age, calls in flight, subscriptions.

    Without --identity and --connection, those of all clients. The last line on standard error has their number. If the
    output is not a terminal, each line is one connection, with tabs between the columns.

    \b
    Exit codes:
      0    success
      2    invalid option, or Redis unreachable
      4    a server has not answered in time; the list is incomplete
    """
    with backend_at(url, key_prefix) as backend:
        found = backend.connections(identity=identity, connection=connection, limit=limit, timeout=timeout)
    if as_json:
        for info in found.listed:
            click.echo(encode_args(info))
    elif found.listed:
        now = time.time()
        print_table(_HEADERS, [_row(info, now) for info in found.listed])
    click.echo(f"{found.connections} connections on {found.servers} servers", err=True)
    check_complete(found, timeout)


def _row(info: ConnectionInfo, now: float) -> tuple[str, ...]:
    identity = "" if info.identity is None else encode_args(info.identity).decode()
    return (
        info.id,
        identity,
        info.address,
        age(now - info.since),
        info.subprotocol,
        str(info.calls),
        str(info.subscriptions),
    )
