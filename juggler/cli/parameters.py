"""Options and arguments shared by several commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from juggler.cli.jsontext import read_json
from juggler.cli.printing import VERBOSE
from juggler.process.address import parse_address
from juggler.process.logline import printable
from juggler.protocol.codec import MAX_TIMEOUT
from juggler.protocol.messages import NULL

F = Callable[..., Any]

SECONDS = click.FloatRange(min=0, min_open=True, max=MAX_TIMEOUT)


_is_negative_number = re.compile(r"-\d").match
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110 §5.6.2


class TakesNegativeNumbers(click.Command):
    """A command whose JSON argument may be a negative number, which click takes for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Not always: an unknown option must remain an error.
        ctx.ignore_unknown_options = any(map(_is_negative_number, args))
        return super().parse_args(ctx, args)


def _json(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes:
    if value is None:
        return NULL
    try:
        return read_json(value)
    except ValueError as error:
        raise click.BadParameter(printable(str(error))) from None


def _headers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for value in values:
        name, colon, content = value.partition(":")
        name, content = name.strip(), content.strip()
        # The error does not repeat the value, which may be secret.
        if not (colon and _is_token(name) and content.isprintable()):
            raise click.BadParameter("expected 'Name: value' on one line; a name has letters, digits and -")
        if name.lower() in map(str.lower, headers):
            raise click.BadParameter(f"{name} is given twice")
        headers[name] = content
    return headers


def _token(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.isascii() and value.isprintable() and " " not in value and value):
        raise click.BadParameter("expected ASCII without spaces")
    return value


def _address(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    try:
        return parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[VERBOSE] = value


json_argument = click.argument("args", metavar="[JSON]", required=False, callback=_json)
url_option = click.option(
    "--url",
    metavar="URL",
    envvar="JUGGLER_URL",
    show_envvar=True,
    default="ws://127.0.0.1:9000/ws",
    show_default=True,
    help="URL of the server.",
)
timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=SECONDS,
    default=60.0,
    show_default=True,
    help="Timeout in seconds for the result of a call.",
)


def bind_option(default: str, note: str = "") -> Callable[[F], F]:
    """Return a decorator that adds ``--bind``, as a host and a port."""
    return click.option(
        "--bind",
        metavar="HOST:PORT",
        default=default,
        show_default=True,
        callback=_address,
        help=f"Address to listen on; port 0 picks a free port. {note}".rstrip(),
    )


interval_option = click.option(
    "--interval", metavar="SECONDS", type=SECONDS, default=1.0, show_default=True, help="Seconds between updates."
)
verbose_option = click.option(
    "--verbose", is_flag=True, expose_value=False, callback=_verbose, help="Print the traceback of an error."
)


def headers_option(command: F) -> F:
    """Add ``--header`` and ``--token`` to a command, which receives both as ``headers``, a dict."""

    @click.option(
        "--header",
        "headers",
        metavar="'NAME: VALUE'",
        multiple=True,
        callback=_headers,
        help="HTTP header for the websocket handshake; repeatable.",
    )
    @click.option(
        "--token",
        metavar="TOKEN",
        envvar="JUGGLER_TOKEN",
        show_envvar=True,
        callback=_token,
        help="Access token, sent as Authorization: Bearer TOKEN; a --header with that name overrides it. Prefer the "
        "variable: other users of the machine can read options.",
    )
    @wraps(command)
    def with_headers(headers: dict[str, str], token: str | None, **parameters: Any) -> Any:
        if token is not None and "authorization" not in map(str.lower, headers):
            headers = {**headers, "Authorization": f"Bearer {token}"}
        return command(headers=headers, **parameters)

    return with_headers
