"""``juggler stats``: show the metrics of a server live."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext, suppress

import click

from juggler.cli.parameters import interval_option, verbose_option
from juggler.cli.tables import live_display, print_lines, table
from juggler.errors import ConnectionClosed
from juggler.process.metrics.rates import Samples, quantile, rate, total, uris

_RATES = {
    "messages in /s": ("juggler_messages_total", {"direction": "in"}),
    "messages out /s": ("juggler_messages_total", {"direction": "out"}),
    "calls /s": ("juggler_call_duration_seconds_count", {}),
    "events /s": ("juggler_events_received_total", {}),
    "NACKs /s": ("juggler_nacks_total", {}),
}
_HEADERS = ("metric", "value", "p50 ms", "p90 ms", "p99 ms")
_NO_LATENCY = ("", "", "")


@click.command()
@click.argument("url", default="http://127.0.0.1:9000")
@interval_option
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="Exit after N updates.")
@verbose_option
def command(url: str, interval: float, count: int | None) -> None:
    """Show rates per second and latencies in milliseconds of the server at URL, until Ctrl-C.

    URL is the address of --metrics-bind, and defaults to http://127.0.0.1:9000, that of juggler demo. Values cover all
    workers and the last interval.

    \b
    Exit codes:
      0    stopped by --count or Ctrl-C
      2    invalid option or argument
      5    cannot connect
    """
    before, began = _sample(url), time.monotonic()
    shown = 0
    live = live_display()
    with suppress(KeyboardInterrupt), live or nullcontext():
        while shown != count:
            time.sleep(interval)
            after, now = _sample(url), time.monotonic()
            rows = figures(before, after, now - began)
            if live is None:
                print_lines(_HEADERS, rows)
            else:
                live.update(table(_HEADERS, rows), refresh=True)
            before, began = after, now
            shown += 1


def figures(before: Samples, after: Samples, seconds: float) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table for two samples, ``seconds`` apart."""
    for title, (name, labels) in _RATES.items():
        yield title, f"{rate(before, after, seconds, name, **labels):.1f}", *_NO_LATENCY
    yield "connections", f"{total(after, 'juggler_connections'):.0f}", *_NO_LATENCY
    yield "loop lag ms", f"{total(after, 'juggler_loop_lag_seconds') * 1000:.1f}", *_NO_LATENCY
    for (name, has), value in sorted(after.items()):
        if name == "juggler_redis_up":
            yield f"redis {dict(has)['link']}", "up" if value else "down", *_NO_LATENCY
    for uri in uris(after):
        calls = rate(before, after, seconds, "juggler_call_duration_seconds_count", uri=uri)
        yield f"{uri} /s", f"{calls:.1f}", *(_ms(quantile(before, after, uri, p)) for p in (0.5, 0.9, 0.99))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def _sample(url: str) -> Samples:
    from juggler.process.metrics.exposition import parse

    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/metrics", timeout=5) as answer:  # noqa: S310
            return parse(answer.read().decode())
    except (OSError, ValueError) as error:
        hint = "; give the address of --metrics-bind" if getattr(error, "code", None) == 404 else ""
        raise ConnectionClosed(1006, f"cannot read metrics from {url}: {error}{hint}") from error
