"""``python -m loadtest.soak [--minutes 10]``: inject failures into a loaded system, and check that it recovers.

Redis is restarted, callees are killed and reloaded, a server worker is killed, and abusive clients connect. Between
failures, messages are judged as in ``make load``. At the end, memory, greenlets, file descriptors and keys are compared
with those after the warm-up.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

import gevent  # noqa: E402

from juggler.client import Client  # noqa: E402
from juggler.errors import JugglerError  # noqa: E402
from loadtest.children import exit_on_sigterm  # noqa: E402
from loadtest.errors import LoadTestError, one_line  # noqa: E402
from loadtest.soak.abusive_clients import KINDS, AbusiveClients  # noqa: E402
from loadtest.soak.clients import MixedClients  # noqa: E402
from loadtest.soak.snapshot import Snapshot, compare, table  # noqa: E402
from loadtest.soak.system import System, wait_for  # noqa: E402
from loadtest.stack import Stack  # noqa: E402

DESCRIPTION = "Inject failures into a loaded system, and check that it recovers and that no resource has grown."
CLIENTS = 8
WARM_UP = 3.0
MAX_WARM_UPS = 5
PROGRESS = 10.0
PROBES = 8
METRICS_AGE = 1.2
"""Seconds after which the metrics of all workers are newer than a failure."""

MAX_PAUSE = 20.0


class Soak:
    """One run."""

    def __init__(self, system: System, seconds: float) -> None:
        self._system = system
        self._seconds = seconds
        self._began = time.monotonic()
        self._reported = self._began
        # Description, function, and whether clients may notice it.
        self._failures: tuple[tuple[str, Callable[[], None], bool], ...] = (
            ("kill Redis and start it again", system.restart_redis, True),
            ("kill a callee and start it again", system.kill_callee, True),
            ("reload the callees by SIGHUP", system.renew_callees, False),
            ("kill a worker of the server", system.kill_worker, True),
            ("kill a process of a callee", system.kill_callee_process, True),
        )

    def run(self) -> list[str]:
        """Run, report progress, and return the violations."""
        self._report("warm-up")
        begin = self._warm_up()
        self._report("start")
        clients, abusers = MixedClients(self._system.url, CLIENTS), AbusiveClients(self._system.url)
        try:
            self._inject_failures(clients, abusers)
        finally:
            _stop(clients, abusers)
        self._report("all clients have disconnected")
        return self._verdict(clients, abusers, begin)

    def _warm_up(self) -> Snapshot:
        """Use everything once, so that one-time allocations do not count as leaks, and return the resources."""
        for _ in range(MAX_WARM_UPS):
            clients = MixedClients(self._system.url, CLIENTS)
            abusers = AbusiveClients(self._system.url, pause=WARM_UP / len(KINDS) / 2)
            gevent.sleep(max(WARM_UP, self._seconds / 20))
            _stop(clients, abusers)
            snapshot = self._system.idle_snapshot()
            # A worker without clients so far has not opened all its connections to Redis.
            if len(set(snapshot.files["server worker"])) == 1:
                break
        return snapshot

    def _inject_failures(self, clients: MixedClients, abusers: AbusiveClients) -> None:
        deadline = time.monotonic() + self._seconds
        pause = min(MAX_PAUSE, self._seconds / len(self._failures) / 2)
        number = 0
        while time.monotonic() < deadline or number < len(self._failures):
            self._watch(clients, abusers, pause)
            name, fail, is_noticed = self._failures[number % len(self._failures)]
            self._report(name)
            if is_noticed:
                clients.ledger.book.disturbed(time.monotonic())
            fail()
            if is_noticed:
                self._wait_until_recovered()
                clients.ledger.book.recovered(time.monotonic())
            number += 1
        self._watch(clients, abusers, pause)

    def _watch(self, clients: MixedClients, abusers: AbusiveClients, seconds: float) -> None:
        """Let it run, and report progress."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            gevent.sleep(min(1.0, seconds))
            self._system.stack.children.check()
            if time.monotonic() - self._reported > PROGRESS:
                tally = clients.ledger.book.tally
                self._report(
                    f"{sum(tally.sent.values()):,} requests, {tally.answered:,} results, {tally.events:,} events, "
                    f"{len(clients.ledger.clients)} clients, {sum(abusers.done.values())} abusive clients, "
                    f"{sum(clients.ledger.book.violations.counts.values())} violations"
                )

    def _wait_until_recovered(self) -> None:
        """Wait until all processes are connected to Redis, and calls and events succeed."""
        began = time.monotonic()
        gevent.sleep(METRICS_AGE)
        wait_for(self._system.is_healthy, "all processes, and their connections to Redis")
        for number in range(PROBES):
            wait_for(lambda number=number: self._flows(number), "a successful call and event")
        self._report(f"  recovered after {time.monotonic() - began:.1f} s")

    def _flows(self, number: int) -> bool:
        try:
            with Client(self._system.url, reconnect=False, timeout=2.0) as client:
                if client.call("test.echo", number, timeout=2.0) != number:
                    return False
                with client.subscribe(f"probe.{number}") as probe:
                    client.publish(f"probe.{number}", number)
                    return bool(probe.get(timeout=2.0).args == number)
        except (JugglerError, TimeoutError):
            return False

    def _verdict(self, clients: MixedClients, abusers: AbusiveClients, begin: Snapshot) -> list[str]:
        rows = compare(begin, self._system.idle_snapshot(like=begin))
        book = clients.ledger.book
        print("\n".join(["", *book.tally.lines(), "", *table(rows)]), flush=True)
        wrong = [f"{row.what}: {row.end}, before {row.begin}" for row in rows if not row.ok]
        wrong += book.violations.lines()
        if book.tally.overdue:
            wrong.append(f"{book.tally.overdue} calls without a failure nearby had no result in time")
        if not book.tally.answered or not book.tally.due:
            wrong.append("no calls or no events")
        if not book.tally.lost_connections:
            wrong.append("no connection was lost, although a worker was killed")
        wrong += [
            f"no abusive client of kind {kind.__name__} finished" for kind in KINDS if not abusers.done[kind.__name__]
        ]
        return wrong

    def _report(self, line: str) -> None:
        self._reported = time.monotonic()
        print(f"{self._reported - self._began:7.1f} s  {line}", flush=True)


def _stop(clients: MixedClients, abusers: AbusiveClients) -> None:
    """Stop all clients concurrently."""
    gevent.joinall([gevent.spawn(clients.stop), gevent.spawn(abusers.stop)], raise_error=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit code: 0 passed, 1 failed, 2 could not run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=DESCRIPTION)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration (default: 10)")
    given = parser.parse_args(arguments)
    exit_on_sigterm()
    try:
        with Stack() as stack:
            wrong = Soak(System(stack), given.minutes * 60).run()
    except (LoadTestError, JugglerError, OSError) as error:
        print(f"soak: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 2
    print("")
    for line in wrong:
        print(f"WRONG   {line}")
    print("FAILED" if wrong else "ok      all resources are back to normal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
