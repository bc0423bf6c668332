"""``juggler uris``: what callees serve, as they announce it in Redis."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from juggler.cli.parameters import verbose_option
from juggler.errors import ConfigError


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--redis", "url", metavar="URL", envvar="REDIS_URL", show_envvar=True, help="Default: on 127.0.0.1.")
@click.option("--key-prefix", default="", envvar="JUGGLER_REDIS_KEY_PREFIX", help="What all names in Redis begin with.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each, with the docstring.")
@verbose_option
def command(patterns: tuple[str, ...], url: str | None, key_prefix: str, as_json: bool) -> None:
    """List the URIs that callees serve: signature, callees, calls a second of late, calls that wait.

    PATTERN is a glob, such as 'shop.*'; without it all are listed, up to 1000. Callees of the Go package announce
    nothing. Exit code 2 when Redis cannot be asked.
    """
    from gevent import monkey

    monkey.patch_all()
    from juggler.protocol import glob
    from juggler.protocol.codec import encode_args

    functions = [
        function
        for function in _functions(url, key_prefix)
        if not patterns or any(glob.matches(pattern, function.uri) for pattern in patterns)
    ]
    if as_json:
        for function in functions:
            click.echo(encode_args(function))
        return
    table = Table("uri", "signature", "callees", "calls/s", "waiting")
    for function in functions:
        numbers = str(function.callees), f"{function.rate:.1f}", str(function.waiting)
        table.add_row(function.uri, function.signature, *numbers)
    Console().print(table if functions else "no callee serves such a URI")


def _functions(url: str | None, key_prefix: str):  # type: ignore[no-untyped-def]  # its type is imported when it is patched
    from juggler.broker.redis import DEFAULT_URL, RedisBroker
    from juggler.errors import BrokerError

    try:
        broker = RedisBroker(url or DEFAULT_URL, key_prefix=key_prefix)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        broker.connect()
        return broker.functions()
    except BrokerError as error:
        raise ConfigError(f"Redis at {broker.shown_url} cannot be asked: {error.reason}") from error
    finally:
        broker.close()
