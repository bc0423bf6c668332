"""``juggler uris``: list the registered functions that callees announce in Redis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from juggler.cli.parameters import verbose_option
from juggler.cli.redis_options import redis_options
from juggler.cli.registered import decoded_schema, registered_functions
from juggler.cli.tables import print_table
from juggler.cli.uri_completion import complete_uris
from juggler.errors import ConfigError
from juggler.protocol.codec import encode_args

if TYPE_CHECKING:
    from juggler.broker import ServedFunction

_HEADERS = ("URI", "signature", "callees", "calls/s", "queued")


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1, shell_complete=complete_uris)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per function, with docstring and schema.")
@click.option(
    "--schema", "as_schema", is_flag=True, help="Print the JSON Schemas of the functions, as one JSON object by URI."
)
@redis_options("callees")
@verbose_option
def command(patterns: tuple[str, ...], as_json: bool, as_schema: bool, url: str | None, key_prefix: str) -> None:
    """List registered functions: URI, signature, callees, recent calls per second, and queued calls.

    PATTERN is a URI, or a glob such as 'shop.*'. Without it, all functions are listed, up to 10,000. Callees of the Go
    package announce no functions. If the output is not a terminal, each line is one function, with tabs between the
    columns.

    --schema prints the schemas of arguments, results and parts, made from the annotations; null for a function that
    has none.

    \b
    Exit codes:
      0    success
      2    invalid option or argument, no function for --schema, or Redis unreachable
    """
    if as_json and as_schema:
        raise ConfigError("expected --json or --schema, got both")
    functions = registered_functions(patterns, url, key_prefix)
    if as_schema:
        if not functions:
            raise ConfigError("no registered functions" + (f" match {' '.join(patterns)}" if patterns else ""))
        click.echo(json.dumps({each.uri: decoded_schema(each.schema) for each in functions}, indent=2))
        return
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
    schema = decoded_schema(found.pop("schema"))
    return found if schema is None else {**found, "schema": schema}
