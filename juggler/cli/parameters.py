"""Options, arguments and texts that several commands have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from juggler.cli.jsontext import read_json
from juggler.cli.printing import printable
from juggler.process.address import parse_address
from juggler.protocol.codec import MAX_TIMEOUT
from juggler.protocol.messages import NULL

VERBOSE = "juggler.cli.verbose"
SECONDS = click.FloatRange(min=0, min_open=True, max=MAX_TIMEOUT)


_is_negative_number = re.compile(r"-\d").match
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110 §5.6.2


class TakesNegativeNumbers(click.Command):
    """A command whose JSON may be a number such as -1, which is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Only then: a mistyped option is to be named otherwise.
        ctx.ignore_unknown_options = any(map(_is_negative_number, args))
        return super().parse_args(ctx, args)


def _parse(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes:
    if value is None:
        return NULL
    try:
        return read_json(value)
    except ValueError as error:
        raise click.BadParameter(printable(str(error))) from None


def _header(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for value in values:
        name, colon, content = value.partition(":")
        name, content = name.strip(), content.strip()
        # It may be secret, and is not repeated.
        if not (colon and _is_token(name) and content.isprintable()):
            raise click.BadParameter("expected 'Name: value', with a name of letters, digits and -, on one line")
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
timeout_option = click.option(
    "--timeout", type=SECONDS, default=60.0, show_default=True, help="Seconds to wait for the result of a call."
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


F = Callable[..., Any]


def headers_option(command: F) -> F:
    """Give a command ``--header`` and ``--token``; it gets ``headers``, a dict."""

    @click.option(
        "--header",
        "headers",
        metavar="'NAME: VALUE'",
        multiple=True,
        callback=_header,
        help="A further header for the upgrade; any number of times.",
    )
    @click.option(
        "--token",
        metavar="TOKEN",
        envvar="JUGGLER_TOKEN",
        show_envvar=True,
        callback=_token,
        help="Who it is: sent as Authorization: Bearer TOKEN, unless a --header says otherwise. Other users of the "
        "machine can see options, not variables.",
    )
    @wraps(command)
    def with_headers(headers: dict[str, str], token: str | None, **parameters: Any) -> Any:
        if token is not None and "authorization" not in map(str.lower, headers):
            headers = {**headers, "Authorization": f"Bearer {token}"}
        return command(headers=headers, **parameters)

    return with_headers
