"""`PoolConsumer`: takes the calls for one kind of pool, never more than the pool can run at once.

The rest stays in the queue, where other workers find it. While several connections call, none of them takes more than
its share of the pool: its further calls stay in the queue, too.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import gevent
from gevent.event import Event
from gevent.queue import SimpleQueue

from juggler.broker import CallConsumer, Choose, IncomingCall
from juggler.callee.shares import Shares
from juggler.errors import BrokerError, BrokerUnavailable
from juggler.process.logline import Line

log = logging.getLogger("juggler.callee")

RETRY_PAUSE = 0.5
LAST_POP_TIMEOUT = 2.0
CLEANUP_TIMEOUT = 1.0
LOOK_PAUSE, LONGEST_LOOK_PAUSE = 0.002, 0.05
"""Seconds until the queues are looked at again for calls of other connections: at first, and after further looks."""

LOOK_PERIOD = 0.01
"""The same while only one connection has called, whose calls do not wait for it."""

NOTICE_PERIOD = 60.0
"""Seconds between two log lines about calls that wait because of their connection's share."""

SILENCE = 30.0
"""Seconds without a reply from the broker after which the consumer is unhealthy."""


class PoolConsumer:
    """Pops calls and passes each to a greenlet. Greenlets are reused; their number grows to the concurrency reached.

    Attributes:
        name: kind of pool, for logs and greenlet names.
        uris: URIs served by this pool.
        concurrency: maximum concurrent calls.
        running: calls in flight.
        abandoning: whether calls that are still in flight are being stopped.
    """

    def __init__(
        self,
        name: str,
        uris: Sequence[str],
        calls: CallConsumer,
        concurrency: int,
        serve: Callable[[IncomingCall], None],
        on_end: Callable[[], None],
        share: float = 1.0,
    ) -> None:
        """Create a consumer; `start` makes it pop.

        Args:
            name: kind of pool, for logs and greenlet names.
            uris: URIs served by this pool.
            calls: the broker's consumer for these URIs.
            concurrency: maximum concurrent calls.
            serve: runs a call to completion; raises only what is raised into its greenlet from outside.
            on_end: called when popping has ended for any reason.
            share: the part of ``concurrency`` that the calls of one connection may take while others call. 1 means all.
        """
        self.name = name
        self.uris = tuple(uris)
        self.concurrency = concurrency
        self.running: dict[int, IncomingCall] = {}
        self.abandoning = False
        limit = max(1, int(concurrency * share))
        self._shares = Shares(limit) if limit < concurrency else None
        self._look_pause = LOOK_PAUSE
        self._looked = self._noticed = -NOTICE_PERIOD
        self._calls = calls
        self._serve = serve
        self._queue: SimpleQueue[IncomingCall | None] = SimpleQueue()
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._changed = Event()
        self._stopped = Event()
        self._outage = ""
        self._last_reply = time.monotonic()
        self._popper = gevent.Greenlet(self._pop_calls)
        self._popper.name = f"callee-{name}-pop"
        self._popper.rawlink(lambda _: on_end())

    def start(self) -> None:
        """Start to pop calls."""
        self._popper.start()

    def unhealthy_reason(self) -> str | None:
        """Return why no calls are taken for this pool; ``None`` if it is healthy."""
        if self._outage:
            return f"cannot take calls: {self._outage}"
        if self._popper.dead:
            return "the consumer has stopped"
        now = time.monotonic()
        if len(self.running) >= self.concurrency:
            if any(call.deadline > now for call in self.running.values()):
                return None
            return f"all {self.concurrency} concurrent calls have passed their deadlines"
        silence = now - self._last_reply
        return f"no reply from the broker for {silence:.0f} s" if silence > SILENCE else None

    # Popping

    def _pop_calls(self) -> None:
        while True:
            while len(self.running) >= self.concurrency and not self._stopped.is_set():
                self._changed.clear()
                self._changed.wait()
                self._last_reply = time.monotonic()
            if self._stopped.is_set():
                return
            free = self.concurrency - len(self.running)
            calls = self._pop(free) if self._shares is None else self._pop_fairly(free, self._shares)
            for call in calls:
                self._dispatch(call)
            if not calls and self._calls.closed:
                return  # it would return at once for ever

    def _pop_fairly(self, free: int, shares: Shares) -> list[IncomingCall]:
        """Pop calls; while several connections call, none of them gets more than its share."""
        now = self._last_reply
        running = self.running.values()
        left = shares.left(running)
        if left > 0:
            # The first connection that calls may have all workers, but not before others are known.
            return self._pop(min(free, left) if shares.are_in_use(now) else free)
        are_shared = shares.are_shared(now)
        if not are_shared and now - self._looked < LOOK_PERIOD:
            return self._pop(free)
        # A connection has its share. Others come first, even if it seems to be the only one.
        self._looked = now
        self._changed.clear()
        calls = self._pop(free, lambda clients: shares.chosen(clients, running))
        if calls:
            self._look_pause = LOOK_PAUSE
        elif not are_shared:
            return self._pop(free)
        elif not self._stopped.is_set():
            self._notice(shares)
            is_free = self._changed.wait(self._look_pause)
            self._look_pause = LOOK_PAUSE if is_free else min(2 * self._look_pause, LONGEST_LOOK_PAUSE)
        return calls

    def _notice(self, shares: Shares) -> None:
        if shares.held_back and self._last_reply - self._noticed > NOTICE_PERIOD:
            self._noticed = self._last_reply
            log.info(Line("consumer: a connection has reached its share", pool=self.name, calls=shares.limit))
        shares.held_back = False

    def _pop(self, limit: int, choose: Choose | None = None) -> list[IncomingCall]:
        try:
            calls = self._calls.pop(limit) if choose is None else self._calls.pop_chosen(limit, choose)
        except Exception as error:
            self._on_outage(error)
            self._stopped.wait(RETRY_PAUSE)
            return []
        self._last_reply = time.monotonic()
        if self._shares is not None:
            self._shares.note(calls, self._last_reply)
        if self._outage:
            self._outage = ""
            log.info(Line("consumer: taking calls again", pool=self.name))
        return calls

    def _on_outage(self, error: Exception) -> None:
        if str(error) == self._outage:
            return
        self._outage = str(error)
        details = {"pool": self.name, "retry_in": RETRY_PAUSE, "error": error}
        if isinstance(error, BrokerUnavailable):
            log.warning(Line("consumer: connection to Redis lost", **details))
        elif isinstance(error, BrokerError):
            log.error(Line("consumer: Redis refused to pop calls", **details))
        else:
            log.error(Line("consumer: bug while popping calls", **details), exc_info=True)

    def _dispatch(self, call: IncomingCall) -> None:
        self.running[id(call)] = call
        if len(self.running) > len(self._greenlets):
            greenlet = gevent.Greenlet(self._work)
            greenlet.name = f"callee-{self.name}-{len(self._greenlets)}"
            greenlet.start()
            self._greenlets.append(greenlet)
        self._queue.put(call)

    # Running

    def _work(self) -> None:
        while not self.abandoning:
            call = None
            try:
                call = self._queue.get()
                if call is None:
                    return
                self._serve(call)
            except BaseException:
                # A function may leave a gevent.Timeout running that fires later, or have this greenlet killed.
                if not self.abandoning:
                    log.exception(
                        Line("call: greenlet interrupted", call=None if call is None else call.msg_uuid),
                        extra=None if call is None else call.log_fields,
                    )
            finally:
                if call is not None:
                    del self.running[id(call)]
                    self._changed.set()

    # Graceful shutdown

    def stop(self) -> None:
        """Stop popping. Does not block."""
        self._stopped.set()
        self._changed.set()
        self._calls.close()

    def end_popping(self, timeout: float = LAST_POP_TIMEOUT) -> None:
        """Wait for the last pop, and start its calls. Call it after `stop`."""
        self._popper.join(timeout)
        self._popper.kill()

    def join(self, deadline: float) -> bool:
        """Drain calls in flight until ``deadline``, including those of the last pop. Return whether all completed."""
        self.end_popping(max(deadline - time.monotonic(), LAST_POP_TIMEOUT))
        while self.running:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._changed.clear()
            self._changed.wait(remaining)
        return True

    def abandon(self) -> Counter[str]:
        """Stop the calls that are still in flight and return their number by URI."""
        left = Counter(call.uri for call in self.running.values())
        if left:
            self.abandoning = True
            gevent.killall(self._greenlets, timeout=CLEANUP_TIMEOUT)
        return left

    def close(self) -> None:
        """Stop the idle greenlets."""
        for _ in self._greenlets:
            self._queue.put(None)
        gevent.joinall(self._greenlets, timeout=CLEANUP_TIMEOUT)

    def failure(self) -> BaseException | None:
        """Return the exception that ended popping; ``None`` if there is none."""
        error: BaseException | None = self._popper.exception
        return error
