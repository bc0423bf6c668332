"""`Worker`: takes calls from a broker, runs the functions of a callee concurrently, and stores the results."""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from time import monotonic

import gevent
from gevent import GreenletExit
from gevent.event import AsyncResult, Event

from juggler.broker import CalleeBroker, IncomingCall, PublishArgs, PubSubBroker
from juggler.callee import answer
from juggler.callee.announcer import Announcer
from juggler.callee.answer import Answer
from juggler.callee.call_spans import traced
from juggler.callee.counts import Stats
from juggler.callee.failures import CallError, Cancelled, InvalidResult, ProcessDied, TimeIsUp
from juggler.callee.part_sender import PartSender
from juggler.callee.pool_consumer import CLEANUP_TIMEOUT, PoolConsumer
from juggler.callee.pools import Runner
from juggler.callee.pools.greenlets import GreenletRunner
from juggler.callee.pools.processes import ProcessRunner
from juggler.callee.pools.threads import ThreadRunner
from juggler.callee.running_calls import RunningCalls
from juggler.callee.thunk import Thunk
from juggler.callee.wear import UNLIMITED, WearLimits
from juggler.errors import BrokerError
from juggler.process import forked
from juggler.process.logline import Line
from juggler.process.metrics import BUCKETS, Snapshot
from juggler.process.uuids import new_uuid

log = logging.getLogger("juggler.callee")

DEFAULT_THREADS = 10

COMPLETION_CHECK = 0.1
"""Seconds between the checks of a worker that retires."""

REMEMBERED_CALLS = 25_000
"""Minimum number of calls whose repetition a worker notices; at most twice as many, in about 6 MB."""


class Worker:
    """Runs the functions of a callee. Can be run once; create and run it in the same thread.

    Functions run in greenlets, or in the thread or process pool that they are registered for. A worker takes no more
    calls than it can run at once. The rest stays in the queue, where other workers find it.

    If a function raises, the caller receives the error and it is logged. This includes ``SystemExit`` and
    ``GreenletExit``: a function cannot stop other calls. ``KeyboardInterrupt`` is also sent to the caller, then stops
    the worker, and `run` raises it.

    Attributes:
        stats: counts of calls, in total and by URI.
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
        share: float = 0.5,
        source: str = "",
        uris: Iterable[str] | None = None,
        grace: float = 10.0,
        time_limit: float | None = None,
        mask_errors: bool = True,
        announce: bool = True,
        pool_limits: WearLimits = UNLIMITED,
    ) -> None:
        """Create a worker; `run` or `start` makes it serve.

        Args:
            callee: functions by URI.
            broker: source of calls; the worker does not close it.
            pubsub_broker: where functions publish. Default: ``broker``, if it supports pub-sub.
            concurrency: maximum concurrent calls in greenlets. Default: 100.
            threads: thread pool size. Default: 10.
            processes: process pool size. Default: number of CPUs.
            share: the part of each pool's size that calls of one connection may take while other connections call, more
                than 0 and at most 1; rounded down, but at least one call. 1 means all. Default: 0.5.
            source: the callee as ``MODULE:OBJECT``, from which the processes of pools import it. Required if a function
                runs in the thread or process pool.
            uris: URIs to serve. Default: all of the callee's.
            grace: graceful shutdown timeout, in seconds: how long `run` drains calls in flight after `stop`, and waits
                for Redis to send results that are ready.
            time_limit: maximum run time of a function in greenlets and processes, in seconds; ``None`` means no limit.
            mask_errors: hide exceptions from callers, except `callee.CallError`: their texts can have paths, SQL or
                passwords. Callers receive the identifier of the call, under which the exception is logged. Default:
                True.
            announce: list the functions in the catalogue.
            pool_limits: limits after which a process of a pool is replaced. Default: unlimited.

        Raises:
            ValueError: a URI has no function, or a number is less than 1.
            juggler.errors.ConfigError: an annotation of a function is not supported.
        """
        served = tuple(callee if uris is None else uris)
        missing = [uri for uri in served if uri not in callee]
        if missing:
            raise ValueError(f"no function is registered for {', '.join(missing)}")
        processes = (os.cpu_count() or 1) if processes is None else processes
        for name, number in (("concurrency", concurrency), ("threads", threads), ("processes", processes)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")
        self._thunks = {uri: traced(callee[uri]) for uri in served}
        if not 0 < share <= 1:
            raise ValueError(f"share: expected more than 0 and at most 1, got {share}")
        for thunk in self._thunks.values():
            thunk.check()
        self.stats = Stats(served)
        self._broker = broker
        self._pubsub = broker if pubsub_broker is None and isinstance(broker, PubSubBroker) else pubsub_broker
        self._grace = grace
        self._share = share
        self._mask = mask_errors
        self._started = False
        self._returning = False
        self._recent: set[int] = set()
        self._older: set[int] = set()
        self._unsent = 0
        self._sent = Event()
        self._stop_requested = Event()
        self._retiring = False
        self._grace_began = Event()
        self._interrupt: KeyboardInterrupt | None = None
        self._loop = gevent.get_hub().loop
        self._runners: list[Runner] = []
        self._consumers: list[PoolConsumer] = []
        in_pools = [thunk for thunk in self._thunks.values() if thunk.pool is not None]
        if in_pools and not source:
            first = in_pools[0]
            raise ValueError(
                f"source: expected MODULE:OBJECT of the callee, because {first.uri} runs in the {first.pool} pool"
            )
        publish = self._publish if self._pubsub else _refuse_publish
        self._running_calls = RunningCalls(self._thunks)
        self._add_consumer("greenlet", None, concurrency, GreenletRunner(time_limit), publish)
        in_thread = ThreadRunner(source, publish, threads=threads, mask=mask_errors, limits=pool_limits)
        self._add_consumer("thread", "thread", threads, in_thread, None)
        in_process = ProcessRunner(source, publish, time_limit=time_limit, mask=mask_errors, limits=pool_limits)
        self._add_consumer("process", "process", processes, in_process, None)
        self._callee_id = new_uuid()
        self._announcer = Announcer(self._callee_id, broker, self._thunks, self.stats) if announce else None
        self._running_calls.listed = announce

    def _uris_of(self, pool: str | None) -> list[str]:
        return [uri for uri, thunk in self._thunks.items() if thunk.pool == pool]

    def _add_consumer(
        self, name: str, pool: str | None, concurrency: int, runner: Runner, publisher: PublishArgs | None
    ) -> None:
        uris = self._uris_of(pool)
        if uris:
            calls = self._broker.calls(uris)
            self._runners.append(runner)
            serve = partial(self._serve, len(self._consumers), runner, publisher)
            consumer = PoolConsumer(name, uris, calls, concurrency, serve, self._request_stop, self._share)
            self._consumers.append(consumer)
            self._running_calls.add(consumer, runner)

    def start(self) -> None:
        """Start to serve and return. Idempotent; `run` calls it."""
        if not self._started:
            self._started = True
            forked.leave_loop_in_children()
            for consumer in self._consumers:
                consumer.start()
            self._broker.listen(self._callee_id, self._running_calls)
            if self._announcer is not None:
                self._announcer.start()

    def run(self) -> int:
        """Serve calls until `stop`, then drain calls in flight and send their results.

        A worker without functions returns at once, as in the Go package.

        Returns:
            number of calls that were abandoned, or whose results were not sent.

        Raises:
            KeyboardInterrupt: it was raised in a function or in this greenlet.
        """
        if not self._thunks:
            log.warning(Line("worker: no function to serve"))
            return 0
        self.start()
        try:
            self._stop_requested.wait()
        finally:
            abandoned = self._finish()
        if self._interrupt is not None:
            raise self._interrupt
        for consumer in self._consumers:
            failure = consumer.failure()
            if failure is not None:
                raise failure
        return abandoned

    def stop(self, returning: bool = False) -> None:
        """Stop taking calls and make `run` return. Does not block; safe in any greenlet and in signal handlers.

        Args:
            returning: another worker takes over: leave the functions in the catalogue, where they expire in seconds.
        """
        self._returning = returning
        self._loop.run_callback_threadsafe(self._grace_began.set)
        self._request_stop()

    def retire(self) -> None:
        """Stop taking calls. `run` returns when calls in flight have completed or expired, or ``grace`` after `stop`.

        Does not block; safe in any greenlet.
        """
        self._retiring = True
        self._request_stop()

    def _request_stop(self) -> None:
        self._loop.run_callback_threadsafe(self._stop_requested.set)

    def unhealthy_reason(self) -> str | None:
        """Return why the worker does not take calls; ``None`` if it is healthy."""
        reasons = [f"stopping, {self.stats.total().running} calls in flight"] if self._stop_requested.is_set() else []
        reasons += filter(None, (consumer.unhealthy_reason() for consumer in self._consumers))
        return "; ".join(reasons) or None

    def snapshot(self) -> Snapshot:
        """Return the current metrics."""
        return self.stats.snapshot(self._broker.stats())

    @property
    def calls_run(self) -> int:
        """Calls that this process has run itself, without those of its pools."""
        return sum(self.stats.by_uri[uri].requests for uri in self._uris_of(None))

    @property
    def capacity(self) -> dict[str, int]:
        """Maximum concurrent calls, by kind of pool."""
        return {consumer.name: consumer.concurrency for consumer in self._consumers}

    # Calls

    def _serve(self, index: int, runner: Runner, publisher: PublishArgs | None, call: IncomingCall) -> None:
        if self._has_run(call):
            log.warning(
                Line("call: dropped, it has run before", uri=call.uri, call=call.msg_uuid), extra=call.log_fields
            )
            return
        stats = self.stats.by_uri[call.uri]
        stats.requests += 1
        began = monotonic()
        if call.deadline <= began:
            stats.expiries += 1
            return
        waits = stats.waits
        waits.counts[bisect_left(BUCKETS, call.waited)] += 1
        waits.total_seconds += call.waited
        call.publisher = publisher
        thunk = self._thunks[call.uri]
        try:
            if call.cancelled or (self._running_calls.early and self._running_calls.is_cancelled(thunk, call)):
                raise Cancelled
            found = runner.run(thunk, call) if call.parts is None else self._run_in_parts(runner, thunk, call)
        except BaseException as exception:
            found = self._on_failure(index, call, exception)
        ended = monotonic()
        durations = stats.durations
        durations.counts[bisect_left(BUCKETS, ended - began)] += 1
        durations.total_seconds += ended - began
        if call.deadline <= ended:
            stats.expiries += 1
            return
        if found.failed:
            stats.failures += 1
        else:
            stats.successes += 1
        self._unsent += 1
        self._broker.result(call, found.args, partial(self._on_sent, call), found.failed)

    def _run_in_parts(self, runner: Runner, thunk: Thunk, call: IncomingCall) -> Answer:
        """Run a call that has asked for parts. They are stored before this returns or raises."""
        sender = call.sender = PartSender(call, self._broker, self._callee_id, thunk.coalesce)
        self._running_calls.senders[call.msg_uuid] = sender
        try:
            try:
                return runner.run(thunk, call)
            finally:
                sender.finish()
        finally:
            del self._running_calls.senders[call.msg_uuid]

    def _has_run(self, call: IncomingCall) -> bool:
        """Return whether this call was taken before, and remember it.

        A Redis that is restored from a snapshot, or was a lagging replica, has calls in its lists that it had handed
        out.
        """
        key = hash((call.conn_uuid, call.msg_uuid))
        if key in self._recent or key in self._older:
            return True
        self._recent.add(key)
        if len(self._recent) >= REMEMBERED_CALLS:
            self._recent, self._older = set(), self._recent
        return False

    def _on_failure(self, index: int, call: IncomingCall, exception: BaseException) -> Answer:
        if isinstance(exception, GreenletExit) and self._consumers[index].abandoning:
            return answer.error(CallError("the callee stopped before the function completed"))
        if isinstance(exception, KeyboardInterrupt):
            self._interrupt = exception
            self.stop()
        # Errors that are raised for the caller are not the operator's problem.
        for_caller = answer.is_for_caller(exception)
        level = logging.INFO if for_caller or isinstance(exception, TimeIsUp) else logging.ERROR
        says_all = for_caller or isinstance(exception, (TimeIsUp, InvalidResult, ProcessDied))
        log.log(
            level,
            Line("call: failed", uri=call.uri, call=call.msg_uuid, error=answer.text_of(exception)),
            exc_info=None if says_all else answer.without_library_frames(exception),
            extra=call.log_fields,
        )
        return answer.error(exception, call.msg_uuid, self._mask)

    def _on_sent(self, call: IncomingCall, error: BrokerError | None) -> None:
        self._unsent -= 1
        self._sent.set()
        if error is not None:
            log.warning(Line("call: result lost", uri=call.uri, call=call.msg_uuid, error=error), extra=call.log_fields)

    # Events

    def _publish(self, channel: str, args: bytes, trace: str) -> None:
        assert self._pubsub is not None
        done: AsyncResult = AsyncResult()
        self._pubsub.publish(channel, new_uuid(), args, done.set, trace)
        error: BrokerError | None = done.get()
        if error is not None:
            raise error

    # Graceful shutdown

    def _finish(self) -> int:
        self._stop_requested.set()
        if self._announcer is not None and not self._returning:
            self._announcer.close()
            self._running_calls.listed = False
        for consumer in self._consumers:
            consumer.stop()
        if self._retiring:
            self._complete_calls()
        deadline = monotonic() + self._grace
        for consumer in self._consumers:
            consumer.join(deadline)
        left: Counter[str] = Counter()
        for consumer in self._consumers:
            left += consumer.abandon()
        if left:
            uris = ", ".join(f"{uri} ({count})" for uri, count in left.items())
            log.warning(Line("shutdown: calls abandoned", calls=left.total(), grace=self._grace, uris=uris))
        self._wait_until_sent(max(deadline, monotonic() + CLEANUP_TIMEOUT))
        unsent = self._unsent
        if unsent:
            log.warning(Line("shutdown: results not sent", results=unsent, grace=self._grace))
        self._broker.unlisten(self._callee_id)
        for consumer in self._consumers:
            consumer.close()
        for runner in self._runners:
            runner.close()
        if self._announcer is not None:
            self._announcer.close(withdraw=False)
        return left.total() + unsent

    def _complete_calls(self) -> None:
        """Wait until all calls in flight have completed or expired, or until `stop`."""
        for consumer in self._consumers:
            consumer.end_popping()
        while deadlines := [call.deadline for consumer in self._consumers for call in consumer.running.values()]:
            remaining = max(deadlines) - monotonic()
            if remaining <= 0 or self._grace_began.wait(min(remaining, COMPLETION_CHECK)):
                return

    def _wait_until_sent(self, deadline: float) -> None:
        while self._unsent and (remaining := deadline - monotonic()) > 0:
            self._sent.clear()
            self._sent.wait(remaining)


def _refuse_publish(channel: str, args: bytes, trace: str) -> None:
    raise RuntimeError(f"cannot publish on {channel!r}: the worker's broker does not support pub-sub")
