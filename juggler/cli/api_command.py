"""``juggler api``: serve the HTTP API, in a process of its own."""

from __future__ import annotations

import os
from typing import IO

import click

from juggler.cli.parameters import SECONDS, bind_option, verbose_option
from juggler.cli.redis_options import backend_at, redis_options
from juggler.cli.serving import LAST_REQUESTS, listen, stop_at_signal
from juggler.errors import ConfigError
from juggler.process.address import format_address
from juggler.process.descriptors import raise_descriptor_limit

CONNECTIONS = 256
"""Maximum number of HTTP connections; others wait."""

REQUEST_TIMEOUT = 10.0
"""Seconds for a request to arrive."""

MAX_HEADER_SIZE = 16 * 1024
"""Maximum size of the headers of a request, in bytes."""


@click.command()
@bind_option("127.0.0.1:9002", "Programs that reach it and have a key control all servers.")
@click.option(
    "--key-file",
    metavar="FILE",
    type=click.File("r", encoding="ascii", errors="replace"),
    help="File with the API keys, one per line. Default: the variable JUGGLER_API_KEY has one key.",
)
@click.option(
    "--max-timeout",
    metavar="SECONDS",
    type=SECONDS,
    default=60.0,
    show_default=True,
    help="Maximum timeout of a call in seconds, and its default.",
)
@redis_options("servers and callees")
@verbose_option
def command(
    bind: tuple[str, int], key_file: IO[str] | None, max_timeout: float, url: str | None, key_prefix: str
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C: publish, call, disconnect and unsubscribe from any program.

    Requests carry an API key in the header Authorization: Bearer KEY. A key has at least 16 characters. Run as many
    processes as you like; they need only Redis, and start without it.

    \b
    Exit codes:
      0    stopped by Ctrl-C or SIGTERM
      2    invalid option, no API key, or port in use
    """
    from juggler.process.patching import patch_all

    patch_all()
    from gevent.pool import Pool

    from juggler.backend.api import Api
    from juggler.process import logs

    logs.configure()
    raise_descriptor_limit(None)
    keys = [os.environ["JUGGLER_API_KEY"]] if os.environ.get("JUGGLER_API_KEY") else []
    if key_file is not None:
        keys = [line.strip() for line in key_file if line.strip()]
    if not keys:
        raise ConfigError("no API key: set JUGGLER_API_KEY or --key-file; make one with: openssl rand -hex 24")
    with backend_at(url, key_prefix) as backend:
        http = listen(
            Api(backend, keys=keys, max_timeout=max_timeout),
            bind,
            "--bind",
            Pool(CONNECTIONS),
            request_timeout=REQUEST_TIMEOUT,
            max_header_size=MAX_HEADER_SIZE,
        )
        stop = stop_at_signal()
        click.echo(f"juggler api: http://{format_address(http.address)}/api/v1/")
        stop.wait()
        http.stop(LAST_REQUESTS)
