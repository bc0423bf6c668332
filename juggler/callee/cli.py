"""The command ``juggler-callee``: serves the functions of a `Callee` in one or several processes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

import juggler
from juggler.callee.command_options import CONTROL_VARIABLE, Options, chosen, shortened
from juggler.callee.wear import MB, WearLimits
from juggler.errors import ConfigError
from juggler.process.address import parse_address
from juggler.process.extras import advice
from juggler.process.logline import printable

LOOPBACK = "127.0.0.1"
"""Where health checks and metrics are served unless the user names another host."""

_POSITIVE = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)
_POSITIVE_SECONDS = click.FloatRange(min=0, min_open=True)
_LEVELS = click.Choice(["debug", "info", "warning", "error"])
_FORMATS = click.Choice(["text", "logfmt", "json"])


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    try:
        host, port = parse_address(value if ":" in value else f":{value}")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return host or LOOPBACK, port


def _option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """Return an option that can also be set by an environment variable."""
    long = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", f"JUGGLER_CALLEE_{long[2:].upper().replace('-', '_')}")
    return click.option(*names, **settings)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("name", metavar="MODULE:OBJECT")
@_option(
    "-c", "--concurrency", type=_POSITIVE, default=100, show_default=True, help="Maximum concurrent calls per process."
)
@_option("-p", "--processes", type=_POSITIVE, default=1, show_default=True, help="Number of worker processes.")
@_option("--threads", type=_POSITIVE, default=10, show_default=True, help="Thread pool size.")
@_option("--pool-processes", type=_POSITIVE, show_default="number of CPUs", help="Process pool size.")
@_option(
    "--share",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.5,
    show_default=True,
    help="Part of -c and of each pool that calls of one connection may take while other connections call.",
)
@_option("--only", multiple=True, metavar="PATTERN", help="Serve only URIs that match, e.g. 'math.*'. Repeatable.")
@_option("--without", multiple=True, metavar="PATTERN", help="Do not serve URIs that match. Repeatable.")
@_option(
    "--redis",
    "redis_url",
    metavar="URL",
    envvar="REDIS_URL",
    show_envvar=True,
    show_default="redis://127.0.0.1:6379",
    help="URL of Redis.",
)
@_option(
    "--pubsub-redis",
    "pubsub_url",
    metavar="URL",
    envvar="PUBSUB_REDIS_URL",
    show_envvar=True,
    show_default="the Redis of --redis",
    help="URL of the Redis that functions publish to.",
)
@_option("--key-prefix", default="", metavar="TEXT", help="Prefix of all keys and channels in Redis.")
@_option(
    "--result-capacity",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Maximum results queued per server process (0 = unlimited); further ones are lost.",
)
@_option(
    "--blocking-timeout",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds that a blocking pop waits in Redis.",
)
@_option("--fail-fast", is_flag=True, help="Exit if Redis is unreachable at start, instead of waiting for it.")
@_option(
    "--grace",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Graceful shutdown timeout in seconds: drain calls in flight, then abandon them.",
)
@_option("--time-limit", type=_POSITIVE_SECONDS, metavar="SECONDS", help="Maximum run time of a function in seconds.")
@_option(
    "--max-calls-per-process",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Replace a process after about this many calls (0 = unlimited).",
)
@_option(
    "--max-memory-per-process",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="MB",
    help="Replace a process that uses about this much memory (0 = unlimited).",
)
@_option("--show-errors", is_flag=True, help="Send the text of exceptions to callers; for development.")
@_option("--mask-errors", is_flag=True, help="Send only the call's identifier, the default; overrides --show-errors.")
@_option("--reload", is_flag=True, help="Restart when a Python file under the current directory changes.")
@_option(
    "--listen",
    callback=_address,
    metavar="[HOST:]PORT",
    help="Serve /healthz, /metrics and /debug/vars here. Default host: 127.0.0.1, which only this machine reaches.",
)
@_option("--health-file", metavar="PATH", help="File to touch every second while healthy.")
@_option("--log-level", type=_LEVELS, default="info", show_default=True, help="Lowest level to log.")
@_option("--log-format", type=_FORMATS, default="text", show_default=True, help="Format of log lines.")
@click.option("--check", is_flag=True, help="Import the callee, print the URIs it would serve, and exit.")
@click.option("--verbose", is_flag=True, help="Log at level debug and print tracebacks.")
@click.version_option(juggler.__version__, prog_name="juggler-callee")
def main(
    check: bool,
    verbose: bool,
    show_errors: bool,
    max_calls_per_process: int,
    max_memory_per_process: int,
    **parameters: Any,
) -> None:
    """Serve the functions of a Callee, for example callee.demo:rpc.

    If the Redis of --redis or REDIS_URL is unreachable at start, the command waits for it. With --fail-fast it exits.
    Every option can also be set by an environment variable, for example --time-limit by JUGGLER_CALLEE_TIME_LIMIT.

    If a function raises, the caller receives the identifier of the call, under which the exception is logged. Raise
    CallError for errors that callers need to see. --show-errors and --reload send the text of every exception.

    SIGTERM and SIGINT (Ctrl-C) drain calls in flight and exit. A second one exits at once. SIGHUP restarts with the
    current code. With several processes, new ones serve before the old ones exit.

    \b
    Exit codes:
      0          stopped, all calls completed
      1          stopped, calls in flight were abandoned or results not sent
      2          invalid option or argument, callee cannot be imported, or Redis is unreachable
      130, 143   stopped at once by a second SIGINT or SIGTERM, or while it was imported
    """
    if verbose:
        parameters["log_level"] = "debug"
    parameters["mask_errors"] = parameters["mask_errors"] or not (show_errors or parameters["reload"])
    options = Options(wear=WearLimits(max_calls_per_process, max_memory_per_process * MB), **parameters)
    try:
        if check:
            _check(options)
            return
        supervised = CONTROL_VARIABLE in os.environ
        # A process whose event loop is stuck cannot report that it is: health checks need a supervisor. So does a
        # process that is replaced before it stops.
        needs_supervisor = options.processes > 1 or options.reload or options.listen is not None or options.wear
        if needs_supervisor and not supervised:
            from juggler.callee.supervisor import Supervisor

            sys.exit(Supervisor(options, sys.argv[1:], _say).run())
        from juggler.callee.worker_process import serve

        sys.exit(1 if serve(options, _say, _complain) else 0)
    except ConfigError as error:
        if verbose:
            traceback.print_exc()
        _complain(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (text := advice(error, "callee")) is None:
            raise
        _complain(text)
        sys.exit(2)
    finally:
        _flush()


def _check(options: Options) -> None:
    # Import the callee as it would be served: monkey-patched.
    import juggler.callee.worker_process  # noqa: F401
    from juggler.callee.registry import load_callee

    uris = chosen(load_callee(options.name), options.only, options.without)
    click.echo(f"{options.name}: {shortened(uris)}")


def _say(line: str) -> None:
    # A full disk or a closed pipe does not stop a callee.
    with suppress(OSError):
        click.echo(line)


def _complain(line: str) -> None:
    with suppress(OSError):
        click.echo(f"juggler-callee: {printable(line)}", err=True)


def _flush() -> None:
    """Drop output that cannot be written. Python would change the exit code because of it."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())


if __name__ == "__main__":
    main()
