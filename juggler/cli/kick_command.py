"""``juggler kick``: disconnect clients, or end one of their subscriptions, on all servers."""

from __future__ import annotations

from typing import Any

import click

from juggler.cli.parameters import verbose_option
from juggler.cli.redis_options import backend_at, check_complete, redis_options, target_options
from juggler.errors import CloseCode
from juggler.protocol.server_commands import UNSUBSCRIBED


@click.command()
@target_options
@click.option(
    "--code",
    metavar="CODE",
    type=click.IntRange(4000, 4999),
    help=f"Close code. Default: {int(CloseCode.DISCONNECTED)}, do not come back; {int(CloseCode.MOVED)}: reconnect.",
)
@click.option("--reason", metavar="TEXT", help="Text for people in the close frame, at most 123 bytes.")
@click.option("--channel", metavar="CHANNEL", help="Unsubscribe them from this channel instead of disconnecting them.")
@click.option("--pattern", metavar="PATTERN", help="The same for a pattern, as the clients have subscribed to it.")
@redis_options("servers")
@verbose_option
def command(
    identity: Any,
    connection: str | None,
    timeout: float,
    code: int | None,
    reason: str | None,
    channel: str | None,
    pattern: str | None,
    url: str | None,
    key_prefix: str,
) -> None:
    """Disconnect all connections of a caller identity, or one connection, on all servers.

    Revoke what lets the user connect first: a client may reconnect, and the connect hook of your server decides.

    \b
    juggler kick --identity '"ann"' --reason 'logged out'
    juggler kick --connection 6a7f6e5c-0d7e-4c2b-a1d0-3f6b9f0c7e11 --code 4411
    juggler kick --identity '"ann"' --channel room.17

    \b
    Exit codes:
      0    success, also if there is no such connection
      2    invalid option, or Redis unreachable
      4    a server has not answered in time; it may execute the command later
    """
    if (identity is None) == (connection is None):
        raise click.UsageError("expected either --identity or --connection")
    if channel is not None and pattern is not None:
        raise click.UsageError("expected either --channel or --pattern")
    is_unsubscribing = channel is not None or pattern is not None
    if is_unsubscribing and code is not None:
        raise click.UsageError("--code is for disconnecting, without --channel and --pattern")
    with backend_at(url, key_prefix) as backend:
        if is_unsubscribing:
            found = backend.unsubscribe(
                channel=channel,
                pattern=pattern,
                identity=identity,
                connection=connection,
                reason=UNSUBSCRIBED if reason is None else reason,
                timeout=timeout,
            )
        else:
            found = backend.disconnect(
                identity=identity,
                connection=connection,
                code=CloseCode.DISCONNECTED if code is None else code,
                reason=reason or "",
                timeout=timeout,
            )
    done = "unsubscribed" if is_unsubscribing else "closed"
    click.echo(f"{found.connections} connections {done}, {found.answered} of {found.servers} servers have answered")
    check_complete(found, timeout)
