"""All clients of a run, which start and stop together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gevent

from juggler.locust.violations import Violations
from loadtest.disturbances import Disturbances
from loadtest.soak.abusive_clients import KINDS, AbusiveClients
from loadtest.soak.cancels import Cancels
from loadtest.soak.clients import MixedClients
from loadtest.soak.crowd import Crowd
from loadtest.soak.readiness import Readiness
from loadtest.soak.slow_reader import SlowReader

MIXED = 8
ABUSE_PAUSE = 0.4


class Population:
    """Well-behaved clients with a book, a crowd with accounts, and abusive clients, from construction until `stop`.

    Attributes:
        disturbances: injected failures, common to all.
    """

    def __init__(
        self,
        urls: Sequence[str],
        servers: Sequence[str],
        redis_url: str,
        notes: Path,
        subscribers: int,
        abuse_pause: float = ABUSE_PAUSE,
    ) -> None:
        """Start all clients.

        Args:
            urls: URLs of the servers for those whose messages are judged; may be those of proxies.
            servers: URLs of the servers themselves, for all other clients and for readiness probes. The last one is
                not killed.
            redis_url: URL of their Redis.
            notes: file of the functions' notes.
            subscribers: number of subscribers in the crowd.
            abuse_pause: seconds between two abusive clients.
        """
        self.disturbances = Disturbances()
        self._readiness = [Readiness(url) for url in servers]
        self._mixed = MixedClients(urls[0], MIXED, self.disturbances)
        self._crowd = Crowd(urls, self._readiness, self.disturbances, subscribers)
        self._abusers = AbusiveClients(servers[0], pause=abuse_pause)
        self._cancels = Cancels(servers, redis_url, notes, self.disturbances)
        self._slow_reader = SlowReader(servers[-1], notes, self.disturbances)

    def stop(self) -> None:
        """Wait for everything in flight, judge it, and disconnect all clients."""
        all_of_them = (self._mixed, self._crowd, self._abusers, self._cancels, self._slow_reader)
        stops = [each.stop for each in all_of_them]
        gevent.joinall([gevent.spawn(stop) for stop in stops], raise_error=True)
        for readiness in self._readiness:
            readiness.stop()

    def progress(self) -> str:
        """Format the counts so far as one line."""
        tally = self._mixed.ledger.book.tally
        return (
            f"{sum(tally.sent.values()):,} requests, {tally.answered:,} results, {tally.events:,} events, "
            f"{self._crowd.line()}, {self._cancels.accounts.cancels:,} cancels, "
            f"{self._slow_reader.bytes / 1e6:,.0f} MB read slowly, {sum(self._abusers.done.values())} abusive clients, "
            f"{sum(sum(each.counts.values()) for each in self._violations())} violations"
        )

    def lines(self) -> list[str]:
        """Format the counts as a table."""
        tally = self._mixed.ledger.book.tally
        return [*tally.lines(), self._crowd.line(), self._cancels.line(), self._slow_reader.line()]

    def wrong(self) -> list[str]:
        """Return the violations, one line for each kind."""
        found = [line for each in self._violations() for line in each.lines()]
        if overdue := self._mixed.ledger.book.tally.overdue:
            found.append(f"{overdue} calls without a failure nearby had no result in time")
        return found

    def idle(self) -> list[str]:
        """Return what did not happen at all, one a line: a run without it proves nothing."""
        tally, accounts = self._mixed.ledger.book.tally, self._crowd.accounts
        found = [
            f"no abusive client of kind {kind.__name__} finished"
            for kind in KINDS
            if not self._abusers.done[kind.__name__]
        ]
        if not tally.answered or not tally.due or not accounts.deliveries or not accounts.results:
            found.append("no calls or no events")
        if not self._cancels.accounts.cancels or not self._slow_reader.bytes:
            found.append("no cancels or no slow reader")
        return found

    @property
    def lost_connections(self) -> int:
        """Number of connections of the well-behaved clients that were lost."""
        return self._mixed.ledger.book.tally.lost_connections

    def _violations(self) -> tuple[Violations, ...]:
        book, crowd = self._mixed.ledger.book, self._crowd.accounts
        return book.violations, crowd.violations, self._cancels.accounts.violations, self._slow_reader.violations
