"""`Worker`: takes calls from a broker, runs their functions, many at a time, and hands back the results."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.queue import SimpleQueue

from callee import answer
from callee.binding import Thunk
from callee.stats import Stats
from juggler.broker import CalleeBroker, IncomingCall
from juggler.errors import BrokerError

log = logging.getLogger("juggler.callee")

RETRY_PAUSE = 0.5
LAST_POP_TIMEOUT = 2.0
LAST_WORDS_TIMEOUT = 1.0


class Worker:
    """Runs the functions of a callee. Runs once; made and run in the same thread.

    Functions run in greenlets that are reused: as many as there were calls at a time. No more calls are taken from the
    broker than can run at once, so the rest stays there for other workers.

    An exception answers its call and is logged. That goes for ``SystemExit`` and ``GreenletExit`` too: one function
    does not end the others. ``KeyboardInterrupt`` answers its call, then stops the worker, and `run` raises it.

    Attributes:
        stats: counts of calls, in all and by URI.
    """

    def __init__(
        self,
        callee: Mapping[str, Thunk],
        broker: CalleeBroker,
        *,
        concurrency: int = 100,
        uris: Iterable[str] | None = None,
        grace: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a worker that does nothing yet.

        Args:
            callee: the functions by URI.
            broker: where calls come from; it stays open.
            concurrency: how many calls may run at a time.
            uris: those to serve; ``None`` means all of the callee's.
            grace: seconds that running calls have to end in once `stop` was called.
            clock: the clock of the calls' deadlines.

        Raises:
            ValueError: there is no URI to serve, one has no function, or ``concurrency`` is less than 1.
        """
        served = tuple(callee if uris is None else uris)
        missing = [uri for uri in served if uri not in callee]
        if missing:
            raise ValueError(f"no function is registered for {', '.join(missing)}")
        if concurrency < 1:
            raise ValueError(f"concurrency: expected at least 1, got {concurrency}")
        self.stats = Stats(served)
        self._thunks = {uri: callee[uri] for uri in served}
        self._broker = broker
        self._consumer = broker.calls(served)
        self._concurrency = concurrency
        self._grace = grace
        self._clock = clock
        self._queue: SimpleQueue[IncomingCall | None] = SimpleQueue()
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        # Calls that are queued or running, and results on their way to the broker.
        self._running: dict[int, IncomingCall] = {}
        self._unsent = 0
        self._changed = Event()
        self._stop_requested = Event()
        self._giving_up = False
        self._interrupt: KeyboardInterrupt | None = None
        self._outage = ""
        self._loop = gevent.get_hub().loop

    def run(self) -> int:
        """Serve calls until `stop`, then let those that run end. Return how many were given up after the grace time.

        Raises:
            KeyboardInterrupt: it came while a function ran, or to this greenlet.
        """
        popper = gevent.Greenlet(self._pop_calls)
        popper.name = "callee-pop"
        popper.rawlink(lambda _: self.stop())
        popper.start()
        try:
            self._stop_requested.wait()
        finally:
            given_up = self._finish(popper)
        if self._interrupt is not None:
            raise self._interrupt
        popper.get()
        return given_up

    def stop(self) -> None:
        """Take no more calls, and make `run` end. Returns at once; any greenlet and a signal handler may call it."""
        self._loop.run_callback_threadsafe(self._stop_requested.set)

    # Taking calls

    def _pop_calls(self) -> None:
        while True:
            self._wait_until(lambda: len(self._running) < self._concurrency or self._stop_requested.is_set())
            if self._stop_requested.is_set():
                return
            for call in self._pop(self._concurrency - len(self._running)):
                self._dispatch(call)

    def _pop(self, limit: int) -> list[IncomingCall]:
        try:
            calls = self._consumer.pop(limit)
        except Exception as error:
            self._on_outage(error)
            self._stop_requested.wait(RETRY_PAUSE)
            return []
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
        self._running[id(call)] = call
        if len(self._running) > len(self._greenlets):
            greenlet = gevent.Greenlet(self._work)
            greenlet.name = f"callee-{len(self._greenlets)}"
            greenlet.start()
            self._greenlets.append(greenlet)
        self._queue.put(call)

    # Running them

    def _work(self) -> None:
        while not self._giving_up:
            call = None
            try:
                call = self._queue.get()
                if call is None:
                    return
                self._serve(call)
            except BaseException:
                # A function may leave a gevent.Timeout behind, which strikes later, or let others kill this greenlet.
                if not self._giving_up:
                    log.exception("%s was interrupted", "a worker" if call is None else f"call {call.msg_uuid}")
            finally:
                if call is not None:
                    del self._running[id(call)]
                    self._changed.set()

    def _serve(self, call: IncomingCall) -> None:
        counts = self.stats.by_uri[call.uri]
        counts.requests += 1
        if call.deadline <= self._clock():
            counts.expiries += 1
            return
        failed = False
        try:
            args = answer.run(self._thunks[call.uri], call.args)
        except BaseException as exception:
            failed = True
            args = self._on_failure(call, exception)
        if call.deadline <= self._clock():
            counts.expiries += 1
            return
        if failed:
            counts.failures += 1
        else:
            counts.successes += 1
        self._unsent += 1
        self._broker.result(call, args, partial(self._on_sent, call))

    def _on_failure(self, call: IncomingCall, exception: BaseException) -> bytes:
        if isinstance(exception, GreenletExit) and self._giving_up:
            return answer.error(GreenletExit("the callee was stopped before the function had ended"))
        if isinstance(exception, KeyboardInterrupt):
            self._interrupt = exception
            self.stop()
        log.error("call %s of %r failed", call.msg_uuid, call.uri, exc_info=exception)
        return answer.error(exception)

    def _on_sent(self, call: IncomingCall, error: BrokerError | None) -> None:
        self._unsent -= 1
        self._changed.set()
        if error is not None:
            log.warning("the result of call %s of %r is lost: %s", call.msg_uuid, call.uri, error)

    # Ending

    def _finish(self, popper: gevent.Greenlet[..., None]) -> int:
        deadline = time.monotonic() + self._grace
        self._stop_requested.set()
        self._changed.set()
        self._consumer.close()
        # What it pops until it notices is ours to run.
        popper.join(max(self._grace, LAST_POP_TIMEOUT))
        popper.kill()
        self._wait_until(self._is_idle, deadline)
        given_up = self._give_up()
        for _ in self._greenlets:
            self._queue.put(None)
        gevent.joinall(self._greenlets, timeout=LAST_WORDS_TIMEOUT)
        return given_up

    def _give_up(self) -> int:
        left = Counter(call.uri for call in self._running.values())
        if left:
            names = ", ".join(f"{uri} ({count})" for uri, count in left.items())
            log.warning("gave up on %d calls that did not end within %g s: %s", left.total(), self._grace, names)
            self._giving_up = True
            gevent.killall(self._greenlets, timeout=LAST_WORDS_TIMEOUT)
        self._wait_until(self._is_idle, time.monotonic() + LAST_WORDS_TIMEOUT)
        return left.total()

    def _is_idle(self) -> bool:
        return not self._running and not self._unsent

    def _wait_until(self, condition: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait for what changes with ``_changed``. One greenlet at a time may wait."""
        while not condition():
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self._changed.clear()
            self._changed.wait(remaining)
        return True
