"""``python -m loadtest.soak [--minutes 10]``: a mixed run with failures in it, after which all is as it was before.

Redis is restarted, callees are killed and renewed, a process of the server is killed, and clients of bad manners come
and go. Whatever happens while nothing is broken on purpose is judged as in ``make load``. In the end memory, greenlets,
file descriptors and keys are compared with those of the beginning, after a warm-up.
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
from loadtest.locust.stack import Stack, StackError, end_at_sigterm  # noqa: E402
from loadtest.soak.crew import Crew  # noqa: E402
from loadtest.soak.figures import Figures, compare, table  # noqa: E402
from loadtest.soak.mischief import KINDS, Mischief  # noqa: E402
from loadtest.soak.system import MortalRedis, System, wait_for  # noqa: E402

CLIENTS = 8
WARM_UP = 3.0
PROGRESS = 10.0
PROBES = 8
OLD_FIGURES = 1.2
"""Seconds after which a figure of another process is not from before."""

MOST_PAUSE = 20.0


class Soak:
    """One run."""

    def __init__(self, system: System, seconds: float) -> None:
        self._system = system
        self._seconds = seconds
        self._began = time.monotonic()
        self._told = self._began
        # What is broken on purpose; nothing may be noticed of a renewal.
        self._failures: tuple[tuple[str, Callable[[], None], bool], ...] = (
            ("Redis is killed and started again", system.restart_redis, True),
            ("a callee is killed and started again", system.kill_callee, True),
            ("callees are renewed by SIGHUP", system.renew_callees, False),
            ("a process of the server is killed", system.kill_worker, True),
            ("a process of a callee is killed", system.kill_callee_process, True),
        )

    def run(self) -> list[str]:
        """Run, tell of it, and return what was wrong."""
        self._tell("warm-up")
        self._warm_up()
        begin = self._system.at_rest()
        self._tell("the run begins")
        crew, mischief = Crew(self._system.url, CLIENTS), Mischief(self._system.url)
        try:
            self._break_things(crew, mischief)
        finally:
            _stop(crew, mischief)
        self._tell("all clients are gone")
        return self._verdict(crew, mischief, begin)

    def _warm_up(self) -> None:
        """Use everything once, so that what is made when it is first needed does not count as a leak."""
        crew, mischief = Crew(self._system.url, CLIENTS), Mischief(self._system.url, pause=WARM_UP / len(KINDS) / 2)
        gevent.sleep(max(WARM_UP, self._seconds / 20))
        _stop(crew, mischief)

    def _break_things(self, crew: Crew, mischief: Mischief) -> None:
        until = time.monotonic() + self._seconds
        pause = min(MOST_PAUSE, self._seconds / len(self._failures) / 2)
        number = 0
        while time.monotonic() < until or number < len(self._failures):
            self._watch(crew, mischief, pause)
            name, fail, is_noticed = self._failures[number % len(self._failures)]
            self._tell(name)
            if is_noticed:
                crew.ledger.book.disturbed(time.monotonic())
            fail()
            if is_noticed:
                self._wait_until_well()
                crew.ledger.book.recovered(time.monotonic())
            number += 1
        self._watch(crew, mischief, pause)

    def _watch(self, crew: Crew, mischief: Mischief, seconds: float) -> None:
        """Let it run for so many seconds, and tell of it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            gevent.sleep(min(1.0, seconds))
            self._system.stack.check()
            if time.monotonic() - self._told > PROGRESS:
                tally = crew.ledger.book.tally
                self._tell(
                    f"{sum(tally.sent.values()):,} requests, {tally.answered:,} results, {tally.events:,} events, "
                    f"{len(crew.ledger.clients)} clients, {sum(mischief.done.values())} of bad manners, "
                    f"{sum(crew.ledger.book.faults.counts.values())} faults"
                )

    def _wait_until_well(self) -> None:
        """Wait until all links are up, as each process tells now, and calls and events flow."""
        began = time.monotonic()
        gevent.sleep(OLD_FIGURES)
        wait_for(self._system.is_well, "the system to be well again")
        for number in range(PROBES):
            wait_for(lambda number=number: self._flows(number), "calls and events to flow again")
        self._tell(f"  well again after {time.monotonic() - began:.1f} s")

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

    def _verdict(self, crew: Crew, mischief: Mischief, begin: Figures) -> list[str]:
        rows = compare(begin, self._system.at_rest(like=begin))
        book = crew.ledger.book
        print("\n".join(["", *book.tally.lines(), "", *table(rows)]), flush=True)
        wrong = [f"{row.what}: {row.end}, at the beginning {row.begin}" for row in rows if not row.ok]
        wrong += book.faults.lines()
        if book.tally.overdue:
            wrong.append(f"{book.tally.overdue} calls had no result in time, while nothing was broken")
        if not book.tally.answered or not book.tally.due:
            wrong.append("no calls, or no events")
        if not book.tally.lost_connections:
            wrong.append("nobody has lost a connection, although a process of the server was killed")
        wrong += [f"nobody did this: {kind.__name__}" for kind in KINDS if not mischief.done[kind.__name__]]
        return wrong

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        print(f"{self._told - self._began:7.1f} s  {line}", flush=True)


def _stop(crew: Crew, mischief: Mischief) -> None:
    """Let all clients end, which takes them some seconds."""
    gevent.joinall([gevent.spawn(crew.stop), gevent.spawn(mischief.stop)], raise_error=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit code: 0, 1 when something was wrong, 2 when it could not run."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    given = parser.parse_args(arguments)
    end_at_sigterm()
    try:
        with Stack(MortalRedis) as stack:
            wrong = Soak(System(stack), given.minutes * 60).run()
    except (StackError, JugglerError, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soak: stopped", file=sys.stderr)
        return 2
    print("")
    for line in wrong:
        print(f"WRONG   {line}")
    print("FAILED" if wrong else "ok      all is as it was")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
