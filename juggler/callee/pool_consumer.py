"""A consumer: the URIs whose functions run in one kind of pool, with a consumer and a bound of their own.

It takes no more calls from the broker than can run at once, so the rest stays there for other workers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import gevent
from gevent.event import Event
from gevent.queue import SimpleQueue

from juggler.broker import CallConsumer, IncomingCall
from juggler.errors import BrokerError

log = logging.getLogger("juggler.callee")

RETRY_PAUSE = 0.5
LAST_POP_TIMEOUT = 2.0
LAST_WORDS_TIMEOUT = 1.0
SILENCE = 30.0
"""Seconds without an answer from the broker after which a consumer counts as deaf."""


class PoolConsumer:
    """Pops calls, and gives each to a greenlet. Greenlets are reused: as many as there were calls at a time.

    Attributes:
        name: for logs.
        uris: those that are served here.
        concurrency: how many calls may run at a time.
        running: calls that are queued or running.
        giving_up: whether what still runs is being ended.
    """

    def __init__(
        self,
        name: str,
        uris: Sequence[str],
        consumer: CallConsumer,
        concurrency: int,
        serve: Callable[[IncomingCall], None],
        on_end: Callable[[], None],
    ) -> None:
        """Make a consumer that does nothing yet.

        Args:
            name: for greenlets.
            uris: those to be served.
            consumer: of these.
            concurrency: how many calls may run at a time.
            serve: runs a call to its end; only what strikes from outside may come out of it.
            on_end: told when no more calls are popped, whatever the reason.
        """
        self.name = name
        self.uris = tuple(uris)
        self.concurrency = concurrency
        self.running: dict[int, IncomingCall] = {}
        self.giving_up = False
        self._consumer = consumer
        self._serve = serve
        self._queue: SimpleQueue[IncomingCall | None] = SimpleQueue()
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._changed = Event()
        self._stopped = Event()
        self._outage = ""
        self._heard = time.monotonic()
        self._popper = gevent.Greenlet(self._pop_calls)
        self._popper.name = f"callee-{name}-pop"
        self._popper.rawlink(lambda _: on_end())

    def start(self) -> None:
        """Begin to pop."""
        self._popper.start()

    def unwell(self) -> str:
        """Return why no calls are taken here although they should be; empty when all is well."""
        if self._outage:
            return f"no calls can be taken: {self._outage}"
        if self._popper.dead:
            return "no calls are taken any more"
        now = time.monotonic()
        if len(self.running) >= self.concurrency:
            waited_for = any(call.deadline > now for call in self.running.values())
            return "" if waited_for else f"all {self.concurrency} calls at a time run past their deadlines"
        silence = now - self._heard
        return f"the broker has not answered for {silence:.0f} s" if silence > SILENCE else ""

    # Taking calls

    def _pop_calls(self) -> None:
        while True:
            while len(self.running) >= self.concurrency and not self._stopped.is_set():
                self._changed.clear()
                self._changed.wait()
                self._heard = time.monotonic()
            if self._stopped.is_set():
                return
            for call in self._pop(self.concurrency - len(self.running)):
                self._dispatch(call)

    def _pop(self, limit: int) -> list[IncomingCall]:
        try:
            calls = self._consumer.pop(limit)
        except Exception as error:
            self._on_outage(error)
            self._stopped.wait(RETRY_PAUSE)
            return []
        self._heard = time.monotonic()
        if self._outage:
            self._outage = ""
            log.info("the broker is back")
        return calls

    def _on_outage(self, error: Exception) -> None:
        if str(error) == self._outage:
            return
        self._outage = str(error)
        # An error that is not the broker's own is a fault, here or there: its place is worth knowing.
        log.error("no calls can be taken for now: %s", error, exc_info=not isinstance(error, BrokerError))

    def _dispatch(self, call: IncomingCall) -> None:
        self.running[id(call)] = call
        if len(self.running) > len(self._greenlets):
            greenlet = gevent.Greenlet(self._work)
            greenlet.name = f"callee-{self.name}-{len(self._greenlets)}"
            greenlet.start()
            self._greenlets.append(greenlet)
        self._queue.put(call)

    # Running them

    def _work(self) -> None:
        while not self.giving_up:
            call = None
            try:
                call = self._queue.get()
                if call is None:
                    return
                self._serve(call)
            except BaseException:
                # A function may leave a gevent.Timeout behind, which strikes later, or let others kill this greenlet.
                if not self.giving_up:
                    log.exception("%s was interrupted", "a worker" if call is None else f"call {call.msg_uuid}")
            finally:
                if call is not None:
                    del self.running[id(call)]
                    self._changed.set()

    # Ending

    def stop(self) -> None:
        """Pop no more. Returns at once."""
        self._stopped.set()
        self._changed.set()
        self._consumer.close()

    def join(self, deadline: float) -> bool:
        """Wait until the time ``deadline`` for calls to end, those of a last pop too. Return whether all have."""
        self._popper.join(max(deadline - time.monotonic(), LAST_POP_TIMEOUT))
        self._popper.kill()
        while self.running:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._changed.clear()
            self._changed.wait(remaining)
        return True

    def give_up(self) -> Counter[str]:
        """End the calls that still run, and return how many there were of each URI."""
        left = Counter(call.uri for call in self.running.values())
        if left:
            self.giving_up = True
            gevent.killall(self._greenlets, timeout=LAST_WORDS_TIMEOUT)
        return left

    def close(self) -> None:
        """End the greenlets that wait for calls."""
        for _ in self._greenlets:
            self._queue.put(None)
        gevent.joinall(self._greenlets, timeout=LAST_WORDS_TIMEOUT)

    def failure(self) -> BaseException | None:
        """Return why popping has ended by itself; ``None`` when it has not."""
        error: BaseException | None = self._popper.exception
        return error
