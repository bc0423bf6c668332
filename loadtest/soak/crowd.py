"""Many subscribers on all servers, which receive bursts and canaries, and a few callers. Their accounts are exact."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from itertools import count

import gevent

from loadtest.audit.accounts import MAX_LATENCY, Accounts, Request
from loadtest.audit.client import AuditClient
from loadtest.disturbances import Disturbances
from loadtest.soak.readiness import Readiness

SUBSCRIBERS = 200
BURST = 600
"""Events that are published at once."""

BURST_PAUSE = 2.0
READ_PAUSE = 0.03
CALLERS = 4
IN_FLIGHT = 4
CALL_TIMEOUT = 4.0
CALL_PAUSE = 0.02
RETRY = 0.2
POLL = 0.05
JUDGE_INTERVAL = 2.0
STOP_TIMEOUT = 30.0
LAST_EVENTS = MAX_LATENCY + 3.0
"""Seconds to wait for the last events, so that late ones are not taken for lost ones."""

CANARY_INTERVAL = 1.0
CANARY_TIMEOUT = 10.0
"""Seconds without a canary after which the server of the subscriber or of the publisher must have been unready."""

TICK = 0.5


class _Slot:
    """The place of a subscriber, which reconnects after a lost connection."""

    def __init__(self, server: int, servers: int) -> None:
        self.server = server
        self.client: AuditClient | None = None
        self.heard = [time.monotonic()] * servers


class Crowd:
    """Clients on raw websockets, from construction until `stop`.

    Attributes:
        accounts: their accounts.
    """

    def __init__(
        self,
        urls: Sequence[str],
        readiness: Sequence[Readiness],
        disturbances: Disturbances,
        subscribers: int = SUBSCRIBERS,
    ) -> None:
        """Start.

        Args:
            urls: URLs of the servers. Bursts are published on the first.
            readiness: readiness of the same servers.
            disturbances: injected failures.
            subscribers: number of subscribers, on all servers in turn.
        """
        self.accounts = Accounts(disturbances)
        self._urls = urls
        self._readiness = readiness
        self._disturbances = disturbances
        self._stopping = self._leaving = False
        self._numbers = count()
        run = uuid.uuid4().hex[:8]
        self._burst = f"burst.{run}"
        self._canaries = [f"canary.{run}.{number}" for number in range(len(urls))]
        self._slots = [_Slot(number % len(urls), len(urls)) for number in range(subscribers)]
        self._subscribers = [gevent.spawn(self._subscribe, slot) for slot in self._slots]
        self._workers = [
            gevent.spawn(self._work, urls[0], self._send_burst),
            *(gevent.spawn(self._work, url, self._send_canary) for url in urls),
            *(gevent.spawn(self._work, urls[number % len(urls)], self._call) for number in range(CALLERS)),
        ]
        self._watching = gevent.spawn(self._watch_canaries)
        self._judging = gevent.spawn(self._judge)

    def stop(self) -> None:
        """Wait for everything in flight, judge it, and disconnect."""
        self._stopping = True
        self._watching.kill()
        gevent.joinall(self._workers, timeout=STOP_TIMEOUT)
        if late := [greenlet for greenlet in self._workers if not greenlet.dead]:
            self.accounts.violations.add("a client hangs", f"{len(late)} of them")
        deadline = time.monotonic() + LAST_EVENTS
        while not self._have_arrived() and time.monotonic() < deadline:
            gevent.sleep(POLL)
        gevent.killall([*late, self._judging])
        self.accounts.judge(time.monotonic(), finally_=True)
        self._leaving = True
        closing = [gevent.spawn(slot.client.close) for slot in self._slots if slot.client]
        gevent.joinall([*closing, *self._subscribers], timeout=STOP_TIMEOUT)
        gevent.killall(self._subscribers)

    def line(self) -> str:
        """Format the counts."""
        accounts = self.accounts
        times = sorted(accounts.latencies)
        p99 = f"{times[len(times) * 99 // 100] * 1000:.0f} ms" if times else "none"
        return (
            f"crowd: {accounts.deliveries:,} events at {len(self._slots)} subscribers, "
            f"{accounts.results:,} results, p99 {p99}"
        )

    # Subscribers

    def _subscribe(self, slot: _Slot) -> None:
        while not self._leaving:
            client = self._connect(self._urls[slot.server], READ_PAUSE)
            if client is None:
                continue
            requests = [client.subscribe(channel) for channel in (self._burst, *self._canaries)]
            client.wait(*requests)
            if all(each.acknowledged for each in requests):
                slot.client = client
                client.wait_closed()
                slot.client = None
            self._check(requests)
            client.close()

    # Publishers and callers: each step of a client

    def _work(self, url: str, step: Callable[[AuditClient], None]) -> None:
        while not self._stopping:
            client = self._connect(url)
            while client and client.code is None and not self._stopping:
                step(client)
            if client:
                client.close()

    def _send_burst(self, client: AuditClient) -> None:
        requests = [client.publish(self._burst, number) for number in range(BURST)]
        client.wait(*requests)
        self._check(requests)
        deadline = time.monotonic() + MAX_LATENCY
        while not (self._stopping or self._have_arrived() or time.monotonic() > deadline):
            gevent.sleep(POLL)
        gevent.sleep(BURST_PAUSE)

    def _send_canary(self, client: AuditClient) -> None:
        request = client.publish(self._canaries[self._urls.index(client.url)])
        client.wait(request)
        self._check([request])
        gevent.sleep(CANARY_INTERVAL)

    def _call(self, client: AuditClient) -> None:
        args = [[client.number, next(self._numbers)] for _ in range(IN_FLIGHT)]
        requests = [client.call("test.echo", each, CALL_TIMEOUT, expected=each) for each in args]
        client.wait(*requests, result=True, timeout=CALL_TIMEOUT)
        self._check(requests)
        gevent.sleep(CALL_PAUSE)

    def _have_arrived(self) -> bool:
        return all(map(self.accounts.arrived, (self._burst, *self._canaries)))

    def _connect(self, url: str, pause: float = 0.0) -> AuditClient | None:
        began = time.monotonic()
        try:
            return AuditClient(url, self.accounts, pause)
        except OSError as error:
            if not self._disturbances.overlap(began, time.monotonic()):
                self.accounts.violations.add("a client could not connect", str(error))
            gevent.sleep(RETRY)
            return None

    def _check(self, requests: Sequence[Request]) -> None:
        refused = [each for each in requests if each.code is not None]
        for each in refused:
            if not self._disturbances.overlap(each.sent, time.monotonic()):
                self.accounts.violations.add("a request was refused", f"{each.shown}: NACK {each.code}")
        if refused:
            gevent.sleep(RETRY)

    # Watchers

    def _judge(self) -> None:
        while True:
            gevent.sleep(JUDGE_INTERVAL)
            self.accounts.judge(time.monotonic())

    def _watch_canaries(self) -> None:
        """Each subscriber receives a canary of each server, or one of the two is not ready."""
        last = time.monotonic()
        while True:
            gevent.sleep(TICK)
            now = time.monotonic()
            # Time in which this process did not run is no silence.
            missed, last = max(0.0, now - last - 2 * TICK), now
            for slot in self._slots:
                for server, channel in enumerate(self._canaries):
                    heard = slot.client and self.accounts.heard(slot.client.number, channel)
                    slot.heard[server] = max(slot.heard[server] + missed, heard or 0.0)
                    unready = max(self._readiness[each].unready_at for each in (server, slot.server))
                    if now - max(slot.heard[server], unready) > CANARY_TIMEOUT:
                        example = f"of server {server} at server {slot.server}"
                        self.accounts.violations.add("no canary, although the servers are ready", example)
                        slot.heard[server] = now
