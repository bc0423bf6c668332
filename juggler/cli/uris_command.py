"""``juggler uris``: list the registered functions that callees announce in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET, structs

from juggler.cli.parameters import verbose_option
from juggler.cli.redis_options import broker_at, redis_options
from juggler.cli.tables import print_table
from juggler.protocol.codec import decode_args, encode_args

if TYPE_CHECKING:
    from juggler.broker import ServedFunction

_HEADERS = ("URI", "signature", "callees", "calls/s", "queued")


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per function, with its docstring.")
@redis_options("callees")
@verbose_option
def command(patterns: tuple[str, ...], as_json: bool, url: str | None, key_prefix: str) -> None:
    """List registered functions: URI, signature, callees, recent calls per second, and queued calls.

    PATTERN is a glob, such as 'shop.*'. Without it, all functions are listed, up to 1000. Callees of the Go package
    announce no functions. If the output is not a terminal, each line is one function, with tabs between the columns.

    \b
    Exit codes:
      0    success
      2    invalid option or argument, or Redis unreachable
    """
    from gevent import monkey

    monkey.patch_all()
    from juggler.protocol import glob

    with broker_at(url, key_prefix) as broker:
        functions = [
            function
            for function in broker.functions()
            if not patterns or any(glob.matches(pattern, function.uri) for pattern in patterns)
        ]
    if as_json:
        for function in functions:
            click.echo(encode_args(_plain(function)))
        return
    if not functions:
        click.echo("no registered functions" + (" match" if patterns else ""))
        return
    rows = [(each.uri, each.signature, str(each.callees), f"{each.rate:.1f}", str(each.waiting)) for each in functions]
    print_table(_HEADERS, rows)


def _plain(function: ServedFunction) -> dict[str, Any]:
    found = structs.asdict(function)
    schema = found.pop("schema")
    return found if schema is UNSET else {**found, "schema": decode_args(bytes(schema))}
