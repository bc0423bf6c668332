"""Exact accounts of calls under juggler.1 that are cancelled, in parts, or lose their callee. PURE: no I/O, no clock.

Shares no code with juggler. Times are seconds of one clock, read by the caller.

- Each call completes once for its client: with its result, "Cancelled", "CalleeGone", the ACK of its cancel, a NACK or
  its connection. Only a failure may let it expire.
- Each function runs at most once for a call, and is stopped within `STOP` after the cancel.
- Parts arrive without gaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from juggler.locust.violations import Violations
from loadtest.disturbances import Disturbances

NACK, ACK, RES, PART = 7, 8, 9, 33
NOT_IN_FLIGHT = 404
CANCELLED, GONE = "Cancelled", "CalleeGone"

STOP = 3.0
"""Seconds after a cancel in which its function has stopped and the client has the end."""

LATE = 3.0
"""Seconds after the timeout of a call in which its result may arrive."""

LEARNT = 7.0
"""Seconds after the death of a callee in which its clients learn of it."""

KNOWN = 2.5
"""Seconds after which the server knows the callee that runs a call."""

HORIZON = 20.0
"""Seconds after the timeout of a call at which it is judged and dropped."""


@dataclass(eq=False)
class Run:
    """One run of a function."""

    pid: int
    started: float
    ended: float | None = None


@dataclass(eq=False)
class Call:
    """A call and what came back.

    Attributes:
        connection: number of its connection.
        name: its name in the notes of the functions, and its result.
        sent: time of sending.
        timeout: seconds.
        cancelled: time of the CNCL, or of the client's disconnect; None: not cancelled.
        waits: whether the CNCL asked for the result.
        confirmed: whether the CNCL has an answer.
        answered: whether the call has an ACK or NACK.
        ended: time of the end for its client; None before.
        end: what the end was.
        parts: number of the last part.
        runs: runs of its function.
    """

    connection: int
    name: str
    sent: float
    timeout: float
    cancelled: float | None = None
    waits: bool = False
    confirmed: bool = False
    answered: bool = False
    ended: float | None = None
    end: str = ""
    parts: int = 0
    runs: list[Run] = field(default_factory=list)


class CallAccounts:
    """The accounts of all connections of a group of clients.

    Attributes:
        violations: broken promises.
        ends: number of calls by their ends.
        cancels: number of cancels of calls in flight.
    """

    def __init__(self, disturbances: Disturbances) -> None:
        self.violations = Violations()
        self.ends: Counter[str] = Counter()
        self.cancels = 0
        self.calls: dict[str, Call] = {}
        self._excused = disturbances.overlap
        self._cancels: dict[str, Call] = {}
        self._names: dict[str, Call] = {}
        self._connections = 0
        self._heard: dict[int, float] = {}

    # Connections

    def connected(self, now: float) -> int:
        """Open a connection, and return its number."""
        self._connections += 1
        self._heard[self._connections] = now
        return self._connections

    def closed(self, connection: int, now: float, code: int | None) -> None:
        """Close a connection; ``code`` is the server's close code, or None if the client closed it."""
        heard = self._heard.pop(connection, now)
        if code is not None and not self._excused(heard, now):
            self.violations.add("a connection was lost", f"code {code}")
        for call in self.calls.values():
            if call.connection == connection and call.ended is None:
                # A killed server cancels nothing.
                if code is None and call.cancelled is None:
                    self.cancels += 1
                    call.cancelled = now
                self._end(call, now, "disconnected" if code is None else "lost")

    # Messages

    def sent(self, connection: int, uuid: str, name: str, timeout: float, now: float) -> Call:
        """Record a call that is about to be sent."""
        call = self.calls[uuid] = self._names[name] = Call(connection, name, now, timeout)
        return call

    def cancelling(self, uuid: str, call: Call, waits: bool, now: float) -> None:
        """Record a CNCL that is about to be sent."""
        self._cancels[uuid] = call
        if call.ended is None:
            self.cancels += 1
        call.cancelled, call.waits = now, waits

    def received(self, connection: int, message: dict[str, Any], now: float) -> Call | None:
        """Record a message of the server, and return the call that it belongs to."""
        self._heard[connection] = now
        type, payload = message["meta"]["type"], message["payload"]
        if type not in (ACK, NACK, RES, PART):
            return None
        cancelled = self._cancels.get(payload["for"])
        call = cancelled or self.calls.get(payload["for"])
        if call is None or call.connection != connection:
            self.violations.add("a response to an unknown call, or at another client", f"{message!r:.200}")
        elif cancelled:
            self._on_cancel_answer(call, payload if type == NACK else None, now)
        elif type in (ACK, NACK):
            self._on_answer(call, payload if type == NACK else None, now)
        elif call.ended is not None:
            self._check_after_end(call, type, now)
        elif type == PART:
            self._on_part(call, payload)
        else:
            self._on_result(call, payload, now)
        return call

    def _on_answer(self, call: Call, nack: dict[str, Any] | None, now: float) -> None:
        if call.answered:
            self.violations.add("a second ACK or NACK", call.name)
        call.answered = True
        if nack:
            if not self._excused(call.sent, now):
                self.violations.add("a call was refused", f"{call.name}: NACK {nack['code']}")
            self._end(call, now, "refused")

    def _on_cancel_answer(self, call: Call, nack: dict[str, Any] | None, now: float) -> None:
        if call.confirmed:
            self.violations.add("a second ACK or NACK of a cancel", call.name)
        call.confirmed = True
        if not nack:
            if not call.waits and call.ended is None:
                self._end(call, now, "cancelled")
            return
        is_over = call.ended is not None or now > call.sent + call.timeout
        if not (nack["code"] == NOT_IN_FLIGHT and is_over) and not self._excused(call.sent, now):
            self.violations.add("a cancel was refused", f"{call.name}: NACK {nack['code']}")

    def _check_after_end(self, call: Call, type: int, now: float) -> None:
        # Nothing follows the ACK of a cancel, and one result a call.
        what = "a part after the end" if type == PART else "a second end"
        self.violations.add(what, f"{call.name}: {call.end}, {now - (call.ended or now):.3f} s before")

    def _on_part(self, call: Call, payload: dict[str, Any]) -> None:
        if payload["seq"] != call.parts + 1:
            self.violations.add("parts with a gap", f"{call.name}: {payload['seq']} after {call.parts}")
        call.parts = payload["seq"] + len(payload.get("parts", [0])) - 1

    def _on_result(self, call: Call, payload: dict[str, Any], now: float) -> None:
        call.answered = True  # a result implies the ACK
        if not payload.get("failed"):
            if payload.get("args") != call.name and not call.parts:
                self.violations.add("a wrong result", f"{call.name}: {payload.get('args')!r:.60}")
            self._end(call, now, "result")
            return
        error = payload["args"]["error"]
        is_expected = error.get("type") == CANCELLED and call.cancelled is not None
        if not is_expected and not self._excused(call.sent, now):
            self.violations.add("a failed call", f"{call.name}: {error!r:.120}")
        self._end(call, now, error.get("type") or "failed")

    def _end(self, call: Call, now: float, end: str) -> None:
        call.ended, call.end = now, end
        self.ends[end] += 1

    # Notes of the functions

    def started(self, name: str, pid: int, at: float) -> None:
        """Record that a function has started."""
        if call := self._names.get(name):
            call.runs.append(Run(pid, at))

    def stopped(self, name: str, pid: int, at: float) -> None:
        """Record that a function has ended."""
        call = self._names.get(name)
        for run in call.runs if call else ():
            if run.pid == pid:
                run.ended = at

    # Verdicts

    def in_flight(self, connection: int | None = None) -> int:
        """Return the number of calls without an end, of one connection or of all."""
        return sum(c.ended is None and connection in (None, c.connection) for c in self.calls.values())

    def running(self, is_running: Callable[[int], bool]) -> bool:
        """Return whether a function runs, as far as it has noted."""
        runs = (run for call in self.calls.values() for run in call.runs)
        return any(run.ended is None and is_running(run.pid) for run in runs)

    def expire(self, now: float) -> None:
        """End the calls whose time is long over: a violation unless a failure was near."""
        for call in self.calls.values():
            last = call.sent + call.timeout
            if call.cancelled is not None:
                last = min(last, max(call.cancelled, call.sent) + STOP - LATE)
            if call.parts:
                last += inf if call.cancelled is None else call.timeout
            if call.ended is None and now > last + LATE:
                if not self._excused(call.sent, now):
                    how = "cancelled, " if call.cancelled else ""
                    self.violations.add("a call without an end", f"{call.name}, {how}{now - call.sent:.1f} s old")
                elif now < call.sent + call.timeout + LATE:
                    continue
                self._end(call, now, "expired")

    def judge(self, now: float, is_running: Callable[[int], bool], finally_: bool = False) -> None:
        """Judge and drop calls that ended long ago; with ``finally_``, all that ended.

        Args:
            now: current time; the notes until then are recorded.
            is_running: whether a process runs.
            finally_: whether this is the last time.
        """
        self.expire(now)
        for uuid, call in list(self.calls.items()):
            if call.ended is not None and (finally_ or now > call.sent + call.timeout + HORIZON):
                self._judge(call, now, is_running)
                del self.calls[uuid], self._names[call.name]
        self._cancels = {uuid: call for uuid, call in self._cancels.items() if call.name in self._names}

    def _judge(self, call: Call, now: float, is_running: Callable[[int], bool]) -> None:
        if len(call.runs) > 1:
            self.violations.add("a function ran twice for one call", call.name)
        for run in call.runs:
            ended = run.ended if run.ended is not None else now if is_running(run.pid) else run.started
            if call.cancelled is None or self._excused(call.sent, call.cancelled + STOP):
                continue
            late = ended - max(call.cancelled, run.started)
            if late > STOP:
                self.violations.add("a cancelled function kept running", f"{call.name}, {late:.1f} s, {call.end}")
            if run.started > call.cancelled + STOP:
                self.violations.add("a cancelled call was started", call.name)

    def orphans(self, pid: int, died: float) -> list[Call]:
        """Return the calls without an end that a killed process ran, and that the server must know."""
        return [call for call in self._ran_until(pid, died) if call.ended is None]

    def judge_death(self, pid: int, died: float) -> int:
        """Judge the calls that a killed process ran, `LEARNT` later. Return how many clients learnt of its death."""
        learnt = 0
        for call in self._ran_until(pid, died):
            if call.ended is None:
                self.violations.add("a client did not learn that its callee was killed", call.name)
            elif call.ended < died or call.end == "lost":
                continue
            elif call.end != GONE:
                self.violations.add("the end of a killed callee was not CalleeGone", f"{call.name}: {call.end}")
            elif call.ended - died > LEARNT:
                self.violations.add("CalleeGone came late", f"{call.name}: {call.ended - died:.1f} s")
            else:
                learnt += 1
        return learnt

    def _ran_until(self, pid: int, died: float) -> list[Call]:
        return [
            call
            for call in self.calls.values()
            if any(run.pid == pid and run.started < died - KNOWN and run.ended is None for run in call.runs)
        ]
