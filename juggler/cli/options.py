"""Options, arguments and texts that several commands have in common."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from juggler.codec import MAX_TIMEOUT
from juggler.config.table import address

VERBOSE = "juggler.cli.verbose"
SECONDS = click.FloatRange(min=0, min_open=True, max=MAX_TIMEOUT)


def _read_stdin() -> str:
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed")
    return sys.stdin.read()


def _parse(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        text = _read_stdin() if value == "-" else value
        text.encode()
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeError:
        raise click.BadParameter("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not usable as JSON: {error}") from None


def _address(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    try:
        return address(value)
    except ValueError as error:
        raise click.BadParameter(f"expected {error}, got {value!r}") from None


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[VERBOSE] = value


json_argument = click.argument("args", metavar="[JSON]", required=False, callback=_parse)
url_option = click.option(
    "--url",
    envvar="JUGGLER_URL",
    show_envvar=True,
    default="ws://127.0.0.1:9000/ws",
    show_default=True,
    help="The server.",
)
bind_option = click.option(
    "--bind",
    metavar="HOST:PORT",
    default="127.0.0.1:9000",
    show_default=True,
    callback=_address,
    help="Where to listen; port 0 takes a free one.",
)
verbose_option = click.option(
    "--verbose", is_flag=True, expose_value=False, callback=_remember, help="Print the traceback of an error."
)


def shown_address(address: tuple[str, int]) -> str:
    """Return an address as ``--bind`` takes it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def one_line(text: bytes) -> str:
    """Return a JSON text without line breaks, which can only stand between its tokens."""
    return text.decode().replace("\r", " ").replace("\n", " ")


def printable(text: str) -> str:
    """Return the text on one line, without control characters: others have written some of it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
