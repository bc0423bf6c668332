"""``python -m loadtest.soak [--minutes 10]``: inject failures into a loaded system, and check that it recovers.

Redis is restarted, callees are killed and reloaded, a server worker is killed, and abusive clients connect. Between
failures, messages are judged as in ``make load``, and those of many subscribers by accounts of their own. Keys in Redis
have to expire. Calls are cancelled at random, and a stream is read slowly. At the end, memory, greenlets, file
descriptors and keys are compared with those after the warm-up.
"""

from __future__ import annotations

from juggler.process.patching import patch_all

patch_all()

import argparse  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from juggler.client import Client  # noqa: E402
from juggler.errors import JugglerError  # noqa: E402
from loadtest.audit.fan_out import SUBSCRIBERS as MANY  # noqa: E402
from loadtest.children import exit_on_sigterm  # noqa: E402
from loadtest.errors import LoadTestError, one_line  # noqa: E402
from loadtest.sabotage import KINDS, ONE_IN  # noqa: E402
from loadtest.soak.abusive_clients import KINDS as ABUSES  # noqa: E402
from loadtest.soak.crowd import SUBSCRIBERS  # noqa: E402
from loadtest.soak.keys import KeyWatch  # noqa: E402
from loadtest.soak.orphans import Orphans  # noqa: E402
from loadtest.soak.population import Population  # noqa: E402
from loadtest.soak.snapshot import Snapshot, compare, table  # noqa: E402
from loadtest.soak.system import System, wait_for  # noqa: E402
from loadtest.stack import Stack  # noqa: E402

DESCRIPTION = "Inject failures into a loaded system, and check that it recovers and that no resource has grown."
WARM_UP = 3.0
MAX_WARM_UPS = 5
PROGRESS = 10.0
PROBES = 8
PASSING = "juggler:calls:cancelled:"
"""Keys of calls that were cancelled just before the end of the warm-up: after the run there must be none."""

METRICS_AGE = 1.2
"""Seconds after which the metrics of all workers are newer than a failure."""

MAX_PAUSE = 20.0
LONG_RUN = 60.0
"""Seconds of a run in which each worker has had clients."""


class Soak:
    """One run."""

    def __init__(self, system: System, seconds: float, subscribers: int, many: int, calm: bool) -> None:
        """Args:
        system: the system under test.
        seconds: duration.
        subscribers: number of subscribers in the crowd.
        many: number of subscribers of a burst before and after the run; 0 for none.
        calm: inject no failures, and compare no resources.
        """
        self._system = system
        self._many = many
        self._seconds = seconds
        self._subscribers = subscribers
        self._began = time.monotonic()
        self._reported = self._began
        self._wrong: list[str] = []
        self._orphans: list[Orphans] = []
        self._finishing: list[gevent.Greenlet] = []
        # Description, function, and whether clients may notice it.
        self._failures: tuple[tuple[str, Callable[[], None], bool], ...] = (
            ("kill Redis and start it again", system.restart_redis, True),
            ("kill a callee and start it again", system.kill_callee, True),
            ("reload the callees by SIGHUP", system.renew_callees, False),
            ("kill a worker of the server", system.kill_worker, True),
            ("kill a process of a callee", system.kill_callee_process, True),
        )
        if calm:
            self._failures = ()

    def run(self) -> list[str]:
        """Run, report progress, and return the violations."""
        self._fan_out()
        begin = self._warm_up() if self._failures else None
        self._report("start")
        keys = KeyWatch(self._system.redis.url, self._system.max_callees)
        population = self._population(self._system.client_urls)
        try:
            self._inject_failures(population)
        finally:
            population.stop()
            keys.stop()
        self._report("all clients have disconnected")
        self._fan_out()
        self._wrong += keys.violations.lines()
        if keys.readings < 2:
            self._wrong.append(f"the keys in Redis were read {keys.readings} times")
        return self._verdict(population, begin)

    def _warm_up(self) -> Snapshot:
        """Use everything once, so that one-time allocations do not count as leaks, and return the resources."""
        self._report("warm-up")
        for _ in range(MAX_WARM_UPS):
            population = self._population(self._system.urls, abuse_pause=WARM_UP / len(ABUSES) / 2)
            gevent.sleep(max(WARM_UP, self._seconds / 20))
            population.stop()
            self._wrong += population.wrong()
            snapshot = self._system.idle_snapshot()
            # A worker without clients so far has not opened all its connections to Redis.
            if len(set(snapshot.files["server worker"])) == 1 and self._system.has_pools():
                break
        snapshot.forget(PASSING)
        return snapshot

    def _population(self, urls: Sequence[str], **options: float) -> Population:
        system = self._system
        return Population(urls, system.urls, system.redis.url, system.notes, self._subscribers, **options)

    def _inject_failures(self, population: Population) -> None:
        deadline = time.monotonic() + self._seconds
        pause = min(MAX_PAUSE, self._seconds / max(1, len(self._failures)) / 2)
        number = 0
        while time.monotonic() < deadline or number < len(self._failures):
            self._watch(population, pause)
            if self._failures:
                self._inject(population, *self._failures[number % len(self._failures)])
            number += 1
        self._watch(population, pause)
        gevent.joinall(self._finishing, raise_error=True)

    def _inject(self, population: Population, name: str, fail: Callable[[], None], is_noticed: bool) -> None:
        self._report(name)
        orphans = None
        if fail in (self._system.kill_callee, self._system.kill_callee_process):
            orphans = Orphans(self._system.urls, self._system.notes, population.disturbances)
        if is_noticed:
            population.disturbances.begin(time.monotonic())
        fail()
        if orphans:
            self._orphans.append(orphans)
            self._finishing.append(gevent.spawn(orphans.finish, *self._system.killed))
        if is_noticed:
            self._wait_until_recovered()
            population.disturbances.end(time.monotonic())

    def _fan_out(self) -> None:
        # By itself: it takes all of the machine.
        if self._many:
            self._report(f"publish a burst to {self._many:,} subscribers")
            self._wrong += self._system.fan_out(self._many)

    def _watch(self, population: Population, seconds: float) -> None:
        """Let it run, and report progress."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            gevent.sleep(min(1.0, seconds))
            self._system.stack.children.check()
            if time.monotonic() - self._reported > PROGRESS:
                self._report(population.progress())

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
            with Client(self._system.urls[number % 2], reconnect=False, timeout=2.0) as client:
                if client.call("test.echo", number, timeout=2.0) != number:
                    return False
                with client.subscribe(f"probe.{number}") as probe:
                    client.publish(f"probe.{number}", number)
                    return bool(probe.get(timeout=2.0).args == number)
        except (JugglerError, TimeoutError):
            return False

    def _verdict(self, population: Population, begin: Snapshot | None) -> list[str]:
        rows = compare(begin, self._system.idle_snapshot(like=begin)) if begin else []
        learnt = sum(each.learnt for each in self._orphans)
        known = f"calls whose client learnt that their callee was killed: {learnt}"
        print("\n".join(["", *population.lines(), known, "", *(table(rows) if begin else ())]), flush=True)
        wrong = [f"{row.what}: {row.end}, before {row.begin}" for row in rows if not row.ok]
        wrong += [*self._wrong, *population.wrong(), *population.idle()]
        wrong += [line for each in self._orphans for line in each.accounts.violations.lines()]
        if self._failures and not learnt:
            wrong.append("no client learnt that its callee was killed")
        # In a short run, all clients may be at other workers.
        if self._failures and self._seconds >= LONG_RUN and not population.lost_connections:
            wrong.append("no connection was lost, although a worker was killed")
        return wrong

    def _report(self, line: str) -> None:
        self._reported = time.monotonic()
        print(f"{self._reported - self._began:7.1f} s  {line}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit code: 0 passed, 1 failed, 2 could not run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=DESCRIPTION)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration (default: 10)")
    parser.add_argument(
        "--subscribers", type=int, default=SUBSCRIBERS, help=f"subscribers that receive bursts (default: {SUBSCRIBERS})"
    )
    parser.add_argument(
        "--many", type=int, default=MANY, help=f"subscribers of a burst before and after; 0: none (default: {MANY})"
    )
    parser.add_argument("--calm", action="store_true", help="inject no failures, and compare no resources")
    parser.add_argument("--sabotage", choices=KINDS, help="break the servers' promises, which must be noticed")
    parser.add_argument("--one-in", type=int, default=ONE_IN, help=f"messages for one sabotage (default: {ONE_IN})")
    given = parser.parse_args(arguments)
    exit_on_sigterm()
    try:
        with tempfile.TemporaryDirectory() as directory, Stack() as stack:
            system = System(stack, Path(directory) / "notes")
            if given.sabotage:
                system.sabotage(given.sabotage, given.one_in)
            wrong = Soak(system, given.minutes * 60, given.subscribers, given.many, given.calm).run()
    except (LoadTestError, JugglerError, OSError) as error:
        print(f"soak: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 2
    print("")
    for line in wrong:
        print(f"WRONG   {line}")
    print("FAILED" if wrong else "ok      all promises were kept, all resources are back to normal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
