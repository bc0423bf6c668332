"""The command ``juggler-callee``: serves the functions of a `Callee`, in one process or several."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

import juggler
from juggler.callee.command_options import Options, chosen, shortened
from juggler.callee.supervisor_messages import CONTROL_VARIABLE
from juggler.errors import ConfigError
from juggler.process.address import parse_address

_POSITIVE = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)
_SECONDS_OF_SOME = click.FloatRange(min=0, min_open=True)
_LEVELS = click.Choice(["debug", "info", "warning", "error"])
_FORMATS = click.Choice(["text", "logfmt", "json"])


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    try:
        return parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """Return an option that a variable of the environment can set, too."""
    long = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", f"JUGGLER_CALLEE_{long[2:].upper().replace('-', '_')}")
    return click.option(*names, **settings)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("name", metavar="MODULE:OBJECT")
@_option("-c", "--concurrency", type=_POSITIVE, default=100, show_default=True, help="Calls at a time, each process.")
@_option("-p", "--processes", type=_POSITIVE, default=1, show_default=True, help="Processes.")
@_option("--threads", type=_POSITIVE, default=10, show_default=True, help="Calls at a time of functions for threads.")
@_option("--pool-processes", type=_POSITIVE, help="The same for processes. Default: as many as there are CPUs.")
@_option("--only", multiple=True, metavar="PATTERN", help="Serve URIs that match, as in 'math.*'; more than once.")
@_option("--without", multiple=True, metavar="PATTERN", help="Serve no URIs that match; more than once.")
@_option("--redis", "redis_url", metavar="URL", envvar="REDIS_URL", show_envvar=True, help="Default: on 127.0.0.1.")
@_option(
    "--pubsub-redis",
    "pubsub_url",
    metavar="URL",
    envvar="PUBSUB_REDIS_URL",
    show_envvar=True,
    help="Where functions publish, if it is another one.",
)
@_option("--key-prefix", default="", metavar="TEXT", help="What all names in Redis begin with.")
@_option("--fail-fast", is_flag=True, help="End when Redis does not answer at the start, rather than wait for it.")
@_option(
    "--grace",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for running calls to end in when it is stopped.",
)
@_option("--time-limit", type=_SECONDS_OF_SOME, metavar="SECONDS", help="End functions that run longer.")
@_option("--mask-errors", is_flag=True, help="Hide from callers what functions raise, but for CallError.")
@_option("--reload", is_flag=True, help="Start anew when a Python file under the current directory changes.")
@_option("--listen", callback=_address, metavar="HOST:PORT", help="Answer /healthz, /metrics and /debug/vars there.")
@_option("--health-file", metavar="PATH", help="Touch this file every second, as long as calls are taken.")
@_option("--log-level", type=_LEVELS, default="info", show_default=True, help="Lowest level that is logged.")
@_option("--log-format", type=_FORMATS, default="text", show_default=True, help="A line each.")
@click.option("--check", is_flag=True, help="Import the callee, say what would be served, and end.")
@click.option("--verbose", is_flag=True, help="Log more, and show tracebacks.")
@click.version_option(juggler.__version__, prog_name="juggler-callee")
def main(check: bool, verbose: bool, **parameters: Any) -> None:
    """Serve the functions of a Callee, for example callee.demo:rpc.

    A Redis that was named and does not answer is waited for, unless --fail-fast is given. Each option can be set by a
    variable, too: --time-limit by JUGGLER_CALLEE_TIME_LIMIT.

    SIGTERM and SIGINT (Ctrl-C) take no more calls and let running ones end; a second one does not. SIGHUP starts anew
    with the code as it is then; with several processes, new ones serve before old ones end.

    \b
    Exit codes:
      0    stopped, all calls have ended
      1    stopped, but gave up on calls that did not end
      2    a wrong option or argument, a callee that cannot be imported, or no Redis
      130, 143   ended at once, by a second SIGINT or SIGTERM
    """
    if verbose:
        parameters["log_level"] = "debug"
    options = Options(**parameters)
    try:
        if check:
            _check(options)
            return
        supervised = CONTROL_VARIABLE in os.environ
        if not supervised and (options.processes > 1 or options.reload):
            from juggler.callee.supervisor import Supervisor

            sys.exit(Supervisor(options, sys.argv[1:], click.echo).run())
        from juggler.callee.worker_process import serve

        sys.exit(1 if serve(options, click.echo, _complain) else 0)
    except ConfigError as error:
        if verbose:
            traceback.print_exc()
        _complain(str(error))
        sys.exit(2)


def _check(options: Options) -> None:
    # As it would be served: what is imported may ask.
    import juggler.callee.worker_process  # noqa: F401
    from juggler.callee.registry import load_callee

    uris = chosen(load_callee(options.name), options.only, options.without)
    click.echo(f"{options.name}: {shortened(uris)}")


def _complain(line: str) -> None:
    click.echo(f"juggler-callee: {line}", err=True)


if __name__ == "__main__":
    main()
