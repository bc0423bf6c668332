"""``python -m loadtest.calls URL``: call functions of a running server, and print latencies and the server's counters.

One process with many connections. `loadtest.bench` measures a system of its own and takes less CPU time per call;
`loadtest.locust` checks every message and runs on several machines.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from urllib.parse import urlsplit, urlunsplit

import click
from msgspec import Struct

from juggler.cli.jsontext import read_json
from juggler.cli.parameters import SECONDS, headers_option
from juggler.client import AsyncClient
from juggler.client.aio import AsyncPending
from juggler.errors import CallFailed, Expired, JugglerError, Nacked
from juggler.protocol.results import result_value
from loadtest.bench.generator.histogram import Histogram
from loadtest.errors import LoadTestError, one_line

NO_RESULT, USAGE, INTERRUPTED = 1, 2, 130
OPENING = 50
"""Connections that are opened concurrently."""

PAUSE = 0.1
"""Seconds of a connection after a call without a result: the server may refuse all calls at once."""

SETTLE = 1.2
"""Seconds until the counters of all workers of the server are up to date."""

OUTCOMES = ("results", "failed", "refused", "expired", "lost")
QUANTILES = {"median": 0.5, "75%": 0.75, "90%": 0.9, "99%": 0.99}


class Plan(Struct, frozen=True):
    """What each connection does.

    Attributes:
        args: arguments of each call, as JSON text.
        rate: calls a second; None means one after the other.
        timeout: timeout of a call in seconds.
        seconds: duration in seconds.
    """

    args: bytes
    rate: float | None
    timeout: float
    seconds: float


class Tally:
    """Counts the calls and their outcomes, and times those with a result.

    Attributes:
        calls: number of calls.
        outcomes: number of calls by outcome, see `OUTCOMES`.
        refusals: number of NACKs by code and reason.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.outcomes: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._latency = Histogram()
        self._shortest = math.inf
        self._total = 0.0

    def count(self, seconds: float, error: JugglerError | None) -> None:
        """Count a call that has ended after a time, with a result if there is no error."""
        if isinstance(error, Nacked):
            self.refusals[str(error)] += 1
        self.outcomes[_outcome(error)] += 1
        if error is None or isinstance(error, CallFailed):
            self._latency.record(round(seconds * 1e9))
            self._shortest = min(self._shortest, seconds)
            self._total += seconds

    def latencies(self) -> dict[str, float]:
        """Return minimum, average, quantiles and maximum of the times from call to result in seconds, by name."""
        latency = self._latency
        if not latency.count:
            return {}
        quantiles = {name: max(latency.quantile(share), self._shortest) for name, share in QUANTILES.items()}
        longest = latency.longest_ns / 1e9
        return {"minimum": self._shortest, "average": self._total / latency.count, **quantiles, "maximum": longest}


def _outcome(error: JugglerError | None) -> str:
    kinds = ((CallFailed, "failed"), (Nacked, "refused"), (Expired, "expired"))
    return "results" if error is None else next((name for kind, name in kinds if isinstance(error, kind)), "lost")


class Caller:
    """One connection: calls until the time is over, and waits for the results."""

    def __init__(self, client: AsyncClient, plan: Plan, uris: Iterator[str], tally: Tally) -> None:
        self._client = client
        self._plan = plan
        self._uris = uris
        self._tally = tally
        self._tasks: set[asyncio.Task[JugglerError | None]] = set()

    async def run(self) -> None:
        end = time.monotonic() + self._plan.seconds
        if self._plan.rate is None:
            while time.monotonic() < end:
                error = await self._call()
                if error is not None and not isinstance(error, CallFailed):
                    await asyncio.sleep(PAUSE)
            return
        due = time.monotonic()
        while due < end:
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(self._call())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += 1 / self._plan.rate
        await asyncio.gather(*self._tasks)

    async def _call(self) -> JugglerError | None:
        self._tally.calls += 1
        began = time.monotonic()
        error: JugglerError | None = None
        try:
            pending: AsyncPending = await self._client.start_call_json(
                next(self._uris), self._plan.args, self._plan.timeout
            )
            result_value(await pending.response())
        except JugglerError as caught:
            error = caught
        self._tally.count(time.monotonic() - began, error)
        return error


async def generate(
    url: str, headers: Mapping[str, str], connections: int, plan: Plan, uris: Iterator[str], tally: Tally
) -> float:
    """Open the connections, make the calls, and return the seconds that this took without the opening.

    Raises:
        LoadTestError: a connection could not be opened.
    """
    clients = [AsyncClient(url, headers=dict(headers)) for _ in range(connections)]
    opening = asyncio.Semaphore(OPENING)

    async def open_one(client: AsyncClient) -> None:
        async with opening:
            await client.connect()

    try:
        try:
            await asyncio.gather(*map(open_one, clients))
        except JugglerError as error:
            raise LoadTestError(f"cannot connect to {url}: {error}") from error
        began = time.monotonic()
        await asyncio.gather(*(Caller(client, plan, uris, tally).run() for client in clients))
        return time.monotonic() - began
    finally:
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


def counters(url: str) -> dict[str, int]:
    """Return the server's counters at an address.

    Raises:
        LoadTestError: the address is unreachable, or does not serve them.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/debug/vars", timeout=10) as answer:
            return dict(json.loads(answer.read())["juggler"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadTestError(f"cannot read the counters of {url}: {error}") from error


def metrics_address(url: str) -> str:
    """Return the HTTP address of a server by the URL of its websocket."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, "", "", ""))


def uris_of(uri: str, count: int) -> list[str]:
    """Return the URIs to call: the URI itself, or with ``count`` those with the suffixes ``.0`` to ``.count-1``."""
    return [f"{uri}.{number}" for number in range(count)] if count else [uri]


def _rows(tally: Tally, seconds: float) -> Iterator[tuple[str, str]]:
    yield "calls", f"{tally.calls} in {seconds:.2f} s, {tally.calls / seconds:.1f}/s"
    for name in OUTCOMES:
        yield name, str(tally.outcomes[name])
    for name, latency in tally.latencies().items():
        yield name, f"{latency * 1000:.2f} ms"


def _show(rows: Iterator[tuple[str, str]], before: dict[str, int] | None, after: dict[str, int] | None) -> None:
    for name, value in rows:
        click.echo(f"{name:<9}  {value}")
    if before is None or after is None:
        click.echo("\nNo counters: name the address of the server's --metrics-bind with --metrics.")
        return
    click.echo(f"\n{'counter':<28}{'before':>12}{'after':>12}{'difference':>12}")
    for name in sorted(before.keys() | after.keys()):
        then, now = before.get(name, 0), after.get(name, 0)
        click.echo(f"{name:<28}{then:>12}{now:>12}{now - then:>12}")


def _json_text(ctx: click.Context, param: click.Parameter, value: str) -> bytes:
    try:
        return read_json(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("url", envvar="JUGGLER_URL", default="ws://127.0.0.1:9000/ws")
@click.option("-c", "--connections", type=click.IntRange(1, 20_000), default=100, show_default=True)
@click.option("--seconds", type=SECONDS, default=10.0, show_default=True, help="Duration of the calls.")
@click.option("--uri", default="test.delay", show_default=True, help="URI to call.")
@click.option(
    "--uris",
    type=click.IntRange(0, 1_000_000),
    default=0,
    metavar="N",
    help="Call URI.0 to URI.N-1 in turn instead of URI; JUGGLER_DEMO_DELAYS=N adds them to callee.demo:rpc.",
)
@click.option(
    "--args", metavar="JSON", default='"100"', show_default=True, callback=_json_text, help="Arguments, or @FILE."
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 100_000, min_open=True),
    help="Calls a second of each connection, without waiting for results. Default: one call after the other.",
)
@click.option("--timeout", type=SECONDS, default=10.0, show_default=True, help="Timeout of a call in seconds.")
@click.option(
    "--metrics",
    metavar="URL",
    help="Address of the server's counters, http://127.0.0.1:9001 for example. Default: that of URL.",
)
@headers_option
def main(
    url: str,
    headers: dict[str, str],
    connections: int,
    seconds: float,
    uri: str,
    uris: int,
    args: bytes,
    rate: float | None,
    timeout: float,
    metrics: str | None,
) -> None:
    """Call functions of the running server at URL, by default ws://127.0.0.1:9000/ws.

    Prints the outcomes of the calls, the times from call to result, and the counters of the server before and after.

    \b
    Exit codes:
      0    there were results
      1    no call has a result
      2    invalid option, or the server or its counters cannot be reached
      130  interrupted
    """
    tally = Tally()
    where = metrics or metrics_address(url)
    before = after = None
    # Without --metrics the counters are welcome, if the server has them at its own address.
    with nullcontext() if metrics else suppress(LoadTestError):
        before = counters(where)
    plan = Plan(args, rate, timeout, seconds)
    called = uris_of(uri, uris)
    pace = "one call after the other" if rate is None else f"{rate:g} calls a second each"
    click.echo(f"{url}: {' to '.join(dict.fromkeys([called[0], called[-1]]))}, {connections} connections, {pace}")
    took = asyncio.run(generate(url, headers, connections, plan, itertools.cycle(called), tally))
    if before is not None:
        time.sleep(SETTLE)
        after = counters(where)
    _show(_rows(tally, took), before, after)
    for reason, count in tally.refusals.most_common(3):
        click.echo(f"refused: {count} times {one_line(reason)}", err=True)
    if not tally.outcomes["results"] + tally.outcomes["failed"]:
        sys.exit(NO_RESULT)


def command() -> None:
    """Run the command, and exit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main(prog_name="python -m loadtest.calls", standalone_mode=False)
    except (click.ClickException, LoadTestError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"calls: {one_line(text)}", err=True)
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    command()
