"""`Worker`: serves the functions of a callee from a broker, many at a time, and hands back the results."""

from __future__ import annotations

import logging
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import gevent
from gevent import GreenletExit
from gevent.event import AsyncResult, Event
from gevent.monkey import get_original

from juggler.broker import CalleeBroker, IncomingCall, PubSubBroker
from juggler.callee import answer
from juggler.callee.announcer import Announcer
from juggler.callee.answer import Answer
from juggler.callee.counts import Stats
from juggler.callee.current import Call
from juggler.callee.failures import CallError, InvalidResult, ProcessDied, TimeIsUp
from juggler.callee.pool_consumer import LAST_WORDS_TIMEOUT, PoolConsumer
from juggler.callee.pools import Runner
from juggler.callee.pools.greenlets import GreenletRunner
from juggler.callee.pools.processes import ProcessRunner
from juggler.callee.pools.threads import ThreadRunner
from juggler.callee.thunk import Thunk
from juggler.errors import BrokerError
from juggler.process.metrics import BUCKETS, Snapshot
from juggler.process.uuids import new_uuid

log = logging.getLogger("juggler.callee")

DEFAULT_THREADS = 10


class Worker:
    """Runs the functions of a callee. Runs once; made and run in the same thread.

    Functions run in greenlets, or in a pool of threads or processes where they were registered so. No more calls are
    taken from the broker than can run at once, so the rest stays there for other workers.

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
        pubsub_broker: PubSubBroker | None = None,
        concurrency: int = 100,
        threads: int = DEFAULT_THREADS,
        processes: int | None = None,
        source: str = "",
        uris: Iterable[str] | None = None,
        grace: float = 10.0,
        time_limit: float | None = None,
        mask_errors: bool = False,
        announce: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a worker that does nothing yet.

        Args:
            callee: the functions by URI.
            broker: where calls come from; it stays open.
            pubsub_broker: where functions publish; ``None`` means ``broker``, if it can.
            concurrency: how many calls may run at a time in greenlets.
            threads: how many may run at a time in threads.
            processes: how many may run at a time in processes; ``None`` means as many as there are CPUs.
            source: where processes find the callee, as ``MODULE:OBJECT``; only functions for them need it.
            uris: those to serve; ``None`` means all of the callee's.
            grace: seconds that running calls have to end in once `stop` was called.
            time_limit: seconds that a function may run, in greenlets and processes; ``None`` means no limit.
            mask_errors: hide from callers what functions raise, but for `callee.CallError`: they get the call's
                identifier, with which the log says more.
            announce: let servers and people know what is served.
            clock: the clock of the calls' deadlines.

        Raises:
            ValueError: there is no URI to serve, one has no function, or a number is less than 1.
            juggler.errors.ConfigError: a function's annotations cannot be understood.
        """
        served = tuple(callee if uris is None else uris)
        missing = [uri for uri in served if uri not in callee]
        if missing:
            raise ValueError(f"no function is registered for {', '.join(missing)}")
        processes = (os.cpu_count() or 1) if processes is None else processes
        for name, number in (("concurrency", concurrency), ("threads", threads), ("processes", processes)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")
        self._thunks = {uri: callee[uri] for uri in served}
        for thunk in self._thunks.values():
            thunk.check()
        self.stats = Stats(served)
        self._broker = broker
        self._pubsub = broker if pubsub_broker is None and isinstance(broker, PubSubBroker) else pubsub_broker
        self._grace = grace
        self._mask = mask_errors
        self._clock = clock
        self._started = False
        self._returning = False
        self._unsent = 0
        self._sent = Event()
        self._stop_requested = Event()
        self._interrupt: KeyboardInterrupt | None = None
        self._loop = gevent.get_hub().loop
        self._runners: list[Runner] = []
        self._consumers: list[PoolConsumer] = []
        in_processes = self._uris_of("process")
        if in_processes and not source:
            raise ValueError(f"source: functions for processes need MODULE:OBJECT of the callee: {in_processes[0]}")
        publish, publish_from_thread = (self._publish, self._publish_from_thread) if self._pubsub else (None, None)
        self._add_consumer("greenlet", None, concurrency, GreenletRunner(time_limit), publish)
        self._add_consumer("thread", "thread", threads, ThreadRunner(threads), publish_from_thread)
        in_process = ProcessRunner(source, publish or _no_publish, time_limit=time_limit, mask=mask_errors)
        self._add_consumer("process", "process", processes, in_process, None)
        self._announcer = Announcer(broker, self._thunks, self.stats) if announce else None

    def _uris_of(self, pool: str | None) -> list[str]:
        return [uri for uri, thunk in self._thunks.items() if thunk.pool == pool]

    def _add_consumer(
        self,
        name: str,
        pool: str | None,
        concurrency: int,
        runner: Runner,
        publish: Callable[[str, bytes], None] | None,
    ) -> None:
        uris = self._uris_of(pool)
        # A broker refuses a consumer without URIs, as it should one of a worker that has none.
        if uris or (pool is None and not self._thunks):
            consumer = self._broker.calls(uris)
            self._runners.append(runner)
            serve = partial(self._serve, len(self._consumers), runner, publish or _no_publish)
            self._consumers.append(PoolConsumer(name, uris, consumer, concurrency, serve, self._on_consumer_end))

    def start(self) -> None:
        """Begin to serve, and return at once. `run` does it, too."""
        if not self._started:
            self._started = True
            for consumer in self._consumers:
                consumer.start()
            if self._announcer is not None:
                self._announcer.start()

    def run(self) -> int:
        """Serve calls until `stop`, then let those that run end. Return how many were given up after the grace time.

        Raises:
            KeyboardInterrupt: it came while a function ran, or to this greenlet.
        """
        self.start()
        try:
            self._stop_requested.wait()
        finally:
            given_up = self._finish()
        if self._interrupt is not None:
            raise self._interrupt
        for consumer in self._consumers:
            failure = consumer.failure()
            if failure is not None:
                raise failure
        return given_up

    def stop(self, returning: bool = False) -> None:
        """Take no more calls, and make `run` end. Returns at once; any greenlet and a signal handler may call it.

        Args:
            returning: another worker takes over: what is served stays announced until then, for a few seconds.
        """
        self._returning = returning
        self._loop.run_callback_threadsafe(self._stop_requested.set)

    def _on_consumer_end(self) -> None:
        self._loop.run_callback_threadsafe(self._stop_requested.set)

    def unwell(self) -> str:
        """Return why calls are not taken although they should be; empty when all is well."""
        reasons = [f"stopping, {self.stats.total().running} calls still run"] if self._stop_requested.is_set() else []
        reasons += filter(None, (consumer.unwell() for consumer in self._consumers))
        return "; ".join(reasons)

    def snapshot(self) -> Snapshot:
        """Return what was counted, as it is now."""
        return self.stats.snapshot(self._broker.stats())

    @property
    def capacity(self) -> dict[str, int]:
        """How many calls may run at a time, by kind of pool."""
        return {consumer.name: consumer.concurrency for consumer in self._consumers}

    # Calls

    def _serve(self, index: int, runner: Runner, publish: Callable[[str, bytes], None], incoming: IncomingCall) -> None:
        stats = self.stats.by_uri[incoming.uri]
        stats.requests += 1
        clock = self._clock
        began = clock()
        if incoming.deadline <= began:
            stats.expiries += 1
            return
        waits = stats.waits
        waits.counts[bisect_left(BUCKETS, incoming.waited)] += 1
        waits.total_seconds += incoming.waited
        call = Call(incoming, publish, clock)
        try:
            found = runner.run(self._thunks[incoming.uri], call)
        except BaseException as exception:
            found = self._on_failure(index, call, exception)
        ended = clock()
        durations = stats.durations
        durations.counts[bisect_left(BUCKETS, ended - began)] += 1
        durations.total_seconds += ended - began
        if incoming.deadline <= ended:
            stats.expiries += 1
            return
        if found.failed:
            stats.failures += 1
        else:
            stats.successes += 1
        self._unsent += 1
        self._broker.result(incoming, found.args, partial(self._on_sent, incoming), found.failed)

    def _on_failure(self, index: int, call: Call, exception: BaseException) -> Answer:
        if isinstance(exception, GreenletExit) and self._consumers[index].giving_up:
            return answer.error(CallError("the callee was stopped before the function had ended"))
        if isinstance(exception, KeyboardInterrupt):
            self._interrupt = exception
            self.stop()
        if isinstance(exception, (CallError, TimeIsUp)):
            # No fault of the function's.
            log.info("call %s of %r failed: %s", call.msg_uuid, call.uri, exception)
        elif isinstance(exception, (InvalidResult, ProcessDied)):
            log.error("call %s of %r failed: %s", call.msg_uuid, call.uri, exception)
        else:
            log.error("call %s of %r failed", call.msg_uuid, call.uri, exc_info=answer.without_our_part(exception))
        return answer.error(exception, call.msg_uuid, self._mask)

    def _on_sent(self, call: IncomingCall, error: BrokerError | None) -> None:
        self._unsent -= 1
        self._sent.set()
        if error is not None:
            log.warning("the result of call %s of %r is lost: %s", call.msg_uuid, call.uri, error)

    # Events

    def _publish(self, channel: str, args: bytes) -> None:
        assert self._pubsub is not None
        done: AsyncResult = AsyncResult()
        self._pubsub.publish(channel, new_uuid(), args, done.set)
        error: BrokerError | None = done.get()
        if error is not None:
            raise error

    def _publish_from_thread(self, channel: str, args: bytes) -> None:
        assert self._pubsub is not None
        # gevent's own ways to wait are for one thread.
        done = get_original("_thread", "allocate_lock")()
        done.acquire()
        told: list[BrokerError | None] = []

        def on_done(error: BrokerError | None) -> None:
            told.append(error)
            done.release()

        self._loop.run_callback_threadsafe(self._pubsub.publish, channel, new_uuid(), args, on_done)
        done.acquire()
        if told[0] is not None:
            raise told[0]

    # Ending

    def _finish(self) -> int:
        deadline = time.monotonic() + self._grace
        self._stop_requested.set()
        if self._announcer is not None and not self._returning:
            self._announcer.close()
        for consumer in self._consumers:
            consumer.stop()
        for consumer in self._consumers:
            consumer.join(deadline)
        left: Counter[str] = Counter()
        for consumer in self._consumers:
            left += consumer.give_up()
        if left:
            names = ", ".join(f"{uri} ({count})" for uri, count in left.items())
            log.warning("gave up on %d calls that did not end within %g s: %s", left.total(), self._grace, names)
        self._wait_until_sent(time.monotonic() + LAST_WORDS_TIMEOUT)
        for consumer in self._consumers:
            consumer.close()
        for runner in self._runners:
            runner.close()
        if self._announcer is not None:
            self._announcer.close(withdraw=False)
        return left.total()

    def _wait_until_sent(self, deadline: float) -> None:
        while self._unsent and (remaining := deadline - time.monotonic()) > 0:
            self._sent.clear()
            self._sent.wait(remaining)


def _no_publish(channel: str, args: bytes) -> None:
    raise RuntimeError(f"cannot publish on {channel!r}: the worker's broker does not publish")
