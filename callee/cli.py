"""The command ``juggler-callee``: serves the functions of a `Callee`."""

from __future__ import annotations

from gevent import monkey

# First of all: what is imported from here on, the user's module above all, gets what is patched. As this module is
# imported for nothing but the command, that is the command's doing.
monkey.patch_all()

import logging  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from types import FrameType  # noqa: E402

import click  # noqa: E402

import juggler  # noqa: E402
from callee.loading import load  # noqa: E402
from callee.registry import Callee  # noqa: E402
from callee.worker import Worker  # noqa: E402
from juggler.broker.redis import DEFAULT_URL, RedisBroker, wait_for  # noqa: E402
from juggler.errors import ConfigError  # noqa: E402

WAYS_OUT = "start one, or name another with --redis or REDIS_URL"
NAMES_SHOWN = 10


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("name", metavar="MODULE:OBJECT")
@click.option(
    "-c", "--concurrency", type=click.IntRange(min=1), default=100, show_default=True, help="Calls at a time."
)
@click.option("--redis", "url", metavar="URL", envvar="REDIS_URL", show_envvar=True, help=f"Default: {DEFAULT_URL}.")
@click.option("--key-prefix", default="", metavar="TEXT", help="What all names in Redis begin with.")
@click.option("--fail-fast", is_flag=True, help="End when Redis does not answer at the start, rather than wait for it.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for running calls to end in when it is stopped.",
)
@click.option("--verbose", is_flag=True, help="Log more, and show tracebacks.")
@click.version_option(juggler.__version__, prog_name="juggler-callee")
def main(
    name: str, concurrency: int, url: str | None, key_prefix: str, fail_fast: bool, grace: float, verbose: bool
) -> None:
    """Serve the functions of a Callee, for example callee.demo:rpc.

    A Redis that was named and does not answer is waited for, unless --fail-fast is given.

    SIGTERM and SIGINT (Ctrl-C) let running calls end; a second one does not.

    \b
    Exit codes:
      0    stopped, all calls have ended
      1    stopped, but gave up on calls that did not end
      2    a wrong option or argument, or no Redis
    """
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        callee = load(name)
        broker = _broker(url or DEFAULT_URL, key_prefix)
        try:
            wait_for(broker, _complain, patient=bool(url) and not fail_fast, ways_out=WAYS_OUT)
            given_up = _serve(callee, broker, concurrency, grace)
        finally:
            broker.close()
        sys.exit(1 if given_up else 0)
    except ConfigError as error:
        if verbose:
            traceback.print_exc()
        _complain(str(error))
        sys.exit(2)


def _broker(url: str, key_prefix: str) -> RedisBroker:
    try:
        return RedisBroker(url, key_prefix=key_prefix)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _complain(line: str) -> None:
    click.echo(f"juggler-callee: {line}", err=True)


def _serve(callee: Callee, broker: RedisBroker, concurrency: int, grace: float) -> int:
    worker = Worker(callee, broker, concurrency=concurrency, grace=grace)
    _stop_on_signals(worker)
    click.echo(f"serving {_shortened(list(callee))}, {concurrency} calls at a time, from {broker.shown_url}")
    given_up = worker.run()
    click.echo(f"stopped: {worker.stats.total()!r}")
    return given_up


def _stop_on_signals(worker: Worker) -> None:
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_signal(signum: int, frame: FrameType | None) -> None:
        # The next one ends the process at once, even one that computes and never looks up.
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        worker.stop()

    for each in signals:
        signal.signal(each, on_signal)


def _shortened(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    main()
