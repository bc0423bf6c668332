"""``juggler types``: write TypeScript types of the registered functions, for juggler.js."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from juggler.cli.jsontext import read_json
from juggler.cli.parameters import verbose_option
from juggler.cli.redis_options import redis_options
from juggler.cli.registered import decoded_schema, is_wanted, registered_functions
from juggler.cli.typescript import Function, types_of
from juggler.errors import ConfigError
from juggler.process.logline import printable
from juggler.protocol.codec import decode_args
from juggler.protocol.connection_events import SERVER_URIS


class _Entry(msgspec.Struct):
    uri: str
    doc: str = ""
    schema: dict[str, Any] = {}


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("-o", "--output", metavar="FILE", help="File to write, such as functions.d.ts. Default: standard output.")
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Read the catalogue from a file, or - for standard input, instead of Redis: the result of a call to the"
    " server's --list-uri.",
)
@redis_options("callees")
@verbose_option
def command(
    patterns: tuple[str, ...], output: str | None, source: str | None, url: str | None, key_prefix: str
) -> None:
    """Write TypeScript types of the registered functions, made from their annotations in Python.

    The file has an interface Functions with the arguments, the result and the parts of each function, by URI. Pass it
    to the client in juggler.js: new Client<Functions>("/ws"). PATTERN is a glob, such as 'shop.*'.

    \b
    Exit codes:
      0    success
      2    invalid option or catalogue, no function, or Redis unreachable
    """
    if source is None:
        found = registered_functions(patterns, url, key_prefix)
        functions = [Function(each.uri, each.doc, decoded_schema(each.schema) or {}) for each in found]
    else:
        functions = [each for each in _read(source) if is_wanted(patterns, each.uri)]
    functions = [each for each in functions if each.uri not in SERVER_URIS]
    if not functions:
        raise ConfigError("no registered functions" + (f" match {' '.join(patterns)}" if patterns else ""))
    text = types_of(functions)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, "utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {output}: {getattr(error, 'strerror', None) or error}") from None


def _read(source: str) -> list[Function]:
    """Return the functions of a catalogue in a file, sorted by URI."""
    try:
        value = decode_args(read_json("-" if source == "-" else f"@{source}"))
        entries = msgspec.convert(value, list[_Entry])
    except (ValueError, msgspec.ValidationError) as error:
        why = printable(str(error)).replace("`", "")
        raise ConfigError(f"--from {source}: expected a catalogue of functions: {why}") from None
    by_uri = {each.uri: Function(each.uri, each.doc, each.schema) for each in entries}
    return [by_uri[uri] for uri in sorted(by_uri)]
