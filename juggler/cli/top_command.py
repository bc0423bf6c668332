"""``juggler top``: show servers, functions and channels of the whole fleet, refreshing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import click

from juggler.cli.parameters import interval_option, verbose_option
from juggler.cli.redis_options import broker_at, redis_options, unreadable
from juggler.cli.tables import age, live_display, print_lines, table
from juggler.errors import BrokerError
from juggler.process.logline import printable
from juggler.protocol.codec import encode_args

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from juggler.broker.overview import Overview

_SERVERS = ("server", "up", "connections", "in flight", "calls/s", "events/s", "lag ms", "state")
_CALLEES = ("callee", "URIs", "calls/s")
_URIS = ("URI", "calls/s", "callees", "queued")
_CHANNELS = ("channel", "events/s")


@click.command()
@interval_option
@click.option("--once", is_flag=True, help="Print the figures once and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per update.")
@redis_options("servers")
@verbose_option
def command(interval: float, once: bool, as_json: bool, url: str | None, key_prefix: str) -> None:
    """Show all server processes, and the busiest callees, URIs and channels, until Ctrl-C.

    Rates are those of the last five seconds. Each server reports its ten busiest URIs and channels. An event counts
    once for each server that receives it. If the output is not a terminal, tables have tabs between the columns.

    \b
    Exit codes:
      0    stopped by --once or Ctrl-C
      2    invalid option, or Redis unreachable at the start
    """
    from juggler.process.patching import patch_all

    patch_all()
    from juggler.broker.overview import overview

    live = None if once or as_json else live_display()
    with broker_at(url, key_prefix) as broker, suppress(KeyboardInterrupt), live or nullcontext():
        while True:
            try:
                fleet = overview(broker)
            except BrokerError as error:
                if once:
                    raise
                message = str(unreadable(broker.shown_url, error))
                if live is None:
                    click.echo(f"juggler top: {printable(message)}", err=True)
                else:
                    live.update(_text(message), refresh=True)
            else:
                if live is not None:
                    live.update(_shown(fleet), refresh=True)
                elif as_json:
                    click.echo(encode_args(fleet))
                else:
                    for headers, rows in _tables(fleet):
                        print_lines(headers, rows)
            if once:
                return
            time.sleep(interval)


def _tables(fleet: Overview) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
    now = time.time()
    servers = [
        (
            f"{each.host}:{each.pid}",
            age(now - each.started),
            str(each.connections),
            str(each.calls),
            f"{each.call_rate:.1f}",
            f"{each.event_rate:.1f}",
            f"{each.lag * 1000:.1f}",
            "draining" if each.draining else "",
        )
        for each in fleet.servers
    ]
    uris = [(each.uri, f"{each.rate:.1f}", str(each.callees), str(each.queued)) for each in fleet.uris]
    channels = [(each.name, f"{each.rate:.1f}") for each in fleet.channels]
    callees = [(each.process, str(each.uris), f"{each.rate:.1f}") for each in fleet.callees]
    return [(_SERVERS, servers), (_CALLEES, callees), (_URIS, uris), (_CHANNELS, channels)]


def _text(line: str) -> Text:
    from rich.text import Text

    return Text(printable(line))


def _shown(fleet: Overview) -> Group:
    from rich.console import Group

    connections = sum(each.connections for each in fleet.servers)
    calls = sum(each.call_rate for each in fleet.servers)
    events = sum(each.event_rate for each in fleet.servers)
    totals = f"{len(fleet.servers)} servers, {connections} connections, {calls:.1f} calls/s, {events:.1f} events/s"
    return Group(_text(totals), *(table(headers, rows) for headers, rows in _tables(fleet)))
