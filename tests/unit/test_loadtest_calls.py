"""loadtest.audit.calls: each broken promise about cancels, parts and dead callees is found, and nothing else."""

from __future__ import annotations

import pytest

from loadtest.audit.calls import ACK, HORIZON, KNOWN, LATE, LEARNT, NACK, PART, RES, STOP, CallAccounts
from loadtest.disturbances import Disturbances

PID = 7
GONE = {"failed": True, "args": {"error": {"type": "CalleeGone"}}}
CANCELLED = {"failed": True, "args": {"error": {"type": "Cancelled", "code": 499}}}
RESULT = {"args": "name"}


class Bench:
    """Accounts of one client with one call, "call", made at 0 s with a timeout of 10 s, and its cancel, "cancel"."""

    def __init__(self):
        self.disturbances = Disturbances()
        self.accounts = CallAccounts(self.disturbances)
        self.client = self.accounts.connected(0.0)
        self.call = self.accounts.sent(self.client, "call", "name", 10.0, 0.0)

    def receive(self, type, now, to="call", connection=None, **payload):
        message = {"meta": {"type": type, "uuid": "x"}, "payload": {"for": to, **payload}}
        self.accounts.received(connection or self.client, message, now)

    def cancel(self, now, wait=False):
        self.accounts.cancelling("cancel", self.call, wait, now)

    def run(self, started, ended=None):
        self.accounts.started("name", PID, started)
        if ended is not None:
            self.accounts.stopped("name", PID, ended)

    def found(self, now=100.0, is_running=True):
        self.accounts.judge(now, lambda pid: is_running, finally_=True)
        return list(self.accounts.violations.counts)


@pytest.fixture
def bench():
    return Bench()


def test_a_result(bench):
    bench.receive(ACK, 0.1)
    bench.run(0.1, 1)
    bench.receive(RES, 1, **RESULT)
    assert bench.found() == []
    assert dict(bench.accounts.ends) == {"result": 1}


def test_a_cancel_without_wait_ends_the_call(bench):
    bench.run(0.1, 1.1)
    bench.cancel(1)
    bench.receive(ACK, 1.1, to="cancel")
    assert bench.found() == []
    assert (dict(bench.accounts.ends), bench.accounts.cancels) == ({"cancelled": 1}, 1)


def test_nothing_follows_the_end(bench):
    bench.cancel(1)
    bench.receive(ACK, 1.1, to="cancel")
    bench.receive(RES, 1.2, **CANCELLED)
    bench.receive(PART, 1.2, seq=1, args=1)
    assert bench.found() == ["a second end", "a part after the end"]


def test_a_cancel_with_wait_ends_with_the_result(bench):
    bench.cancel(1, wait=True)
    bench.receive(ACK, 1.1, to="cancel")
    bench.receive(RES, 1.2, **CANCELLED)
    assert bench.found() == []


def test_a_cancelled_call_without_an_end(bench):
    bench.cancel(1, wait=True)
    bench.receive(ACK, 1.1, to="cancel")
    assert bench.found(1 + STOP + 0.1) == ["a call without an end"]


def test_a_call_without_an_end(bench):
    bench.receive(ACK, 0.1)
    assert bench.found(10 + LATE - 0.1) == []
    assert bench.found(10 + LATE + 0.1) == ["a call without an end"]


def test_a_failure_may_let_a_call_expire(bench):
    bench.disturbances.begin(5)
    bench.disturbances.end(6)
    assert bench.found() == []
    assert dict(bench.accounts.ends) == {"expired": 1}


def test_a_wrong_result(bench):
    bench.receive(RES, 1, args="other")
    assert bench.found() == ["a wrong result"]


def test_cancelled_although_nobody_has(bench):
    bench.receive(RES, 1, **CANCELLED)
    assert bench.found() == ["a failed call"]


def test_second_answers(bench):
    for to in ("call", "cancel"):
        bench.cancel(1, wait=True)
        bench.receive(ACK, 1.1, to=to)
        bench.receive(ACK, 1.1, to=to)
    bench.receive(RES, 2, **CANCELLED)
    assert bench.found() == ["a second ACK or NACK", "a second ACK or NACK of a cancel"]


def test_a_cancel_may_come_too_late(bench):
    bench.cancel(1)
    bench.receive(RES, 1, **RESULT)
    bench.receive(NACK, 1.1, to="cancel", code=404)
    assert bench.found() == []


def test_a_cancel_of_a_call_in_flight_is_refused(bench):
    bench.cancel(1)
    bench.receive(NACK, 1.1, to="cancel", code=404)
    bench.receive(RES, 2, **RESULT)
    assert bench.found() == ["a cancel was refused"]


def test_a_response_at_another_client(bench):
    bench.receive(RES, 1, connection=bench.accounts.connected(0.0), **RESULT)
    bench.receive(RES, 1, **RESULT)
    assert bench.found() == ["a response to an unknown call, or at another client"]


def test_a_function_runs_twice(bench):
    bench.run(0.1, 1)
    bench.run(0.2, 1)
    bench.receive(RES, 1, **RESULT)
    assert bench.found() == ["a function ran twice for one call"]


@pytest.mark.parametrize("how", ["CNCL", "disconnect"])
@pytest.mark.parametrize(
    ("ended", "is_running", "expected"),
    [
        (1 + STOP - 0.1, True, []),
        (1 + STOP + 0.1, True, ["a cancelled function kept running"]),
        (None, True, ["a cancelled function kept running"]),
        (None, False, []),
    ],
)
def test_a_function_after_its_cancel(bench, how, ended, is_running, expected):
    bench.run(0.1, ended)
    if how == "CNCL":
        bench.cancel(1)
        bench.receive(ACK, 1.1, to="cancel")
    else:
        bench.accounts.closed(bench.client, 1.0, None)
    assert bench.found(is_running=is_running) == expected
    assert bench.accounts.cancels == 1


def test_a_call_is_started_after_its_cancel(bench):
    bench.cancel(1)
    bench.receive(ACK, 1.1, to="cancel")
    bench.run(1 + STOP + 0.1, 1 + STOP + 0.2)
    assert bench.found() == ["a cancelled call was started"]


def test_a_lost_connection_ends_calls_and_cancels_none(bench):
    bench.run(0.1)
    bench.accounts.closed(bench.client, 1.0, 1006)
    assert bench.found() == ["a connection was lost"]
    assert (dict(bench.accounts.ends), bench.accounts.cancels) == ({"lost": 1}, 0)


def test_parts_with_a_gap(bench):
    bench.receive(PART, 1, seq=1, parts=["a", "b"])
    bench.receive(PART, 1, seq=3, args="c")
    assert not bench.accounts.violations
    bench.receive(PART, 1, seq=5, args="e")
    bench.receive(RES, 2, args=None)
    assert bench.found() == ["parts with a gap"]


def test_calls_are_dropped_once_they_are_judged(bench):
    bench.receive(RES, 1, **RESULT)
    bench.accounts.judge(10 + HORIZON - 0.1, lambda pid: True)
    assert bench.accounts.calls
    bench.accounts.judge(10 + HORIZON + 0.1, lambda pid: True)
    assert not bench.accounts.calls


# A killed callee


@pytest.mark.parametrize(
    ("result", "after", "expected", "learnt"),
    [
        (GONE, LEARNT - 0.1, [], 1),
        (GONE, LEARNT + 0.1, ["CalleeGone came late"], 0),
        (RESULT, 1, ["the end of a killed callee was not CalleeGone"], 0),
        (None, 0, ["a client did not learn that its callee was killed"], 0),
    ],
)
def test_the_clients_of_a_killed_callee(bench, result, after, expected, learnt):
    bench.run(0.0)
    died = KNOWN + 0.1
    bench.disturbances.begin(died)
    assert bench.accounts.orphans(PID, died) == [bench.call]
    if result:
        bench.receive(RES, died + after, **result)
        assert bench.accounts.orphans(PID, died) == []
    assert bench.accounts.judge_death(PID, died) == learnt
    assert list(bench.accounts.violations.counts) == expected


def test_callee_gone_without_a_failure(bench):
    bench.receive(RES, 1, **GONE)
    assert bench.found() == ["a failed call"]


@pytest.mark.parametrize(("started", "ended"), [(0.5, None), (0.0, 1.0)])
def test_calls_that_a_killed_callee_did_not_run_for_long(bench, started, ended):
    bench.run(started, ended)
    assert bench.accounts.orphans(PID, KNOWN + 0.1) == []
