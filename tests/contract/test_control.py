"""Cancel, credit and parts: what a server and a callee tell each other while a call runs."""

from __future__ import annotations

import pytest

from juggler.broker import Announcement, ControlListener, IncomingCall
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import StoredParts
from tests.recorders import Outcome, RecordedCall, pop_all
from tests.support import eventually

ALL = StoredParts("all", 8)


class Recorder(ControlListener):
    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.calls: list[IncomingCall] = []

    def on_cancel(self, call_id: str) -> None:
        self.told.append(("cancel", call_id))

    def on_credit(self, call_id: str, until: int) -> None:
        self.told.append(("credit", (call_id, until)))

    def running(self) -> list[IncomingCall]:
        return self.calls

    def wait(self, *expected: tuple[str, object]) -> None:
        eventually(lambda: set(expected) <= set(self.told), message=f"{expected} in {self.told}")


class Served:
    """A callee that announces a URI and listens."""

    def __init__(self, broker, uri: str = "test.uri") -> None:
        self.id = new_uuid()
        self.recorder = Recorder()
        self.broker = broker
        self.consumer = broker.calls([uri])
        broker.announce(self.id, {uri: Announcement()}, 60.0)
        broker.listen(self.id, self.recorder)


@pytest.fixture
def served(callee):
    served = Served(callee)
    yield served
    callee.unlisten(served.id)
    callee.withdraw(served.id, ["test.uri"])
    eventually(lambda: not callee.functions())


@pytest.fixture
def announced(caller, served):
    def is_announced() -> bool:
        told: list[object] = []
        caller.ask_served(["test.uri"], told.append)
        eventually(lambda: told)
        return told == [{"test.uri": True}]

    eventually(is_announced)
    return served


def ask(caller, parts: StoredParts | None = ALL, timeout: float = 5.0) -> RecordedCall:
    pending = RecordedCall()
    caller.call("test.uri", b"null", timeout, pending, parts=parts)
    pending.wait(1)
    return pending


def test_a_queued_call_that_is_cancelled_completes_and_never_runs(caller, callee, call, nothing_is_kept):
    pending = call(caller, timeout=2.0)  # as long as Redis keeps the mark of the cancel
    caller.cancel(pending)
    assert pending.wait(2) == [("stored", None), ("unqueued",)]
    assert caller.in_flight(None) == 0
    other = call(caller)
    popped = pop_all(callee.calls(["test.uri"]), 1)
    assert [each.msg_uuid for each in popped] == [other.call_id]
    callee.result(popped[0], b"1", Outcome())
    assert other.wait(2)[1] == ("result", b"1")
    nothing_is_kept()


def test_a_call_that_is_cancelled_in_the_turn_in_which_it_is_made_never_runs(caller, callee, call, nothing_is_kept):
    caller.forget(call(caller, "test.other"))  # a Redis 6 knows the script from now on
    cancelled, kept = RecordedCall(), RecordedCall()
    caller.call("test.uri", b"1", 2.0, cancelled)
    caller.cancel(cancelled)
    caller.call("test.uri", b"2", 2.0, kept)
    assert kept.wait(1) == [("stored", None)]
    assert sorted(cancelled.wait(2)) == [("stored", None), ("unqueued",)]
    (popped,) = pop_all(callee.calls(["test.uri"]), 1)
    assert popped.args == b"2"
    callee.result(popped, b"1", Outcome())
    assert kept.wait(2)[1] == ("result", b"1")
    nothing_is_kept()


def test_the_callee_of_a_running_call_hears_of_the_cancel(caller, callee, call, announced):
    pending = call(caller)
    (incoming,) = pop_all(announced.consumer, 1)
    caller.cancel(pending)
    announced.recorder.wait(("cancel", incoming.msg_uuid))
    assert caller.in_flight(None) == 1
    callee.result(incoming, b"1", Outcome())
    assert pending.wait(2) == [("stored", None), ("result", b"1")]


def test_a_call_that_has_completed_cannot_be_cancelled(caller, callee, call, announced, round_trip):
    pending = call(caller)
    (incoming,) = pop_all(announced.consumer, 1)
    callee.result(incoming, b"1", Outcome())
    pending.wait(2)
    caller.cancel(pending)
    round_trip()
    assert pending.told == [("stored", None), ("result", b"1")]
    assert announced.recorder.told == []


def test_calls_of_an_owner_that_has_gone_are_cancelled_on_request(caller, callee, announced):
    running, queued = RecordedCall(), RecordedCall()
    owner = running.owner = queued.owner = object()
    caller.call("test.uri", b"null", 5.0, running)
    running.wait(1)
    (incoming,) = pop_all(announced.consumer, 1)
    caller.call("test.uri", b"null", 5.0, queued)
    queued.wait(1)
    caller.abandon(owner, cancel=True)
    announced.recorder.wait(("cancel", incoming.msg_uuid))
    assert caller.in_flight(owner) == 0
    barrier = RecordedCall()
    caller.call("test.uri", b"null", 5.0, barrier)
    assert [each.msg_uuid for each in pop_all(announced.consumer, 1)] == [barrier.call_id]
    assert (running.told, queued.told[1:]) == ([("stored", None)], [])


def test_the_wish_for_parts_arrives_with_the_call(caller, announced):
    ask(caller, StoredParts("latest", 3))
    ask(caller, None)
    assert [each.parts for each in pop_all(announced.consumer, 2)] == [StoredParts("latest", 3), None]


def test_parts_arrive_in_order_and_before_the_result(caller, callee, announced):
    pending = ask(caller)
    (incoming,) = pop_all(announced.consumer, 1)
    sent = [Outcome() for _ in range(3)]
    callee.part(incoming, announced.id, sent[0])
    callee.part(incoming, announced.id, sent[1], 1, b'"a"')
    callee.part(incoming, announced.id, sent[2], 2, b'["b", "c"]', True)
    callee.part(incoming, announced.id, Outcome(), 4, b'"d"')
    callee.result(incoming, b'"end"', Outcome())
    assert pending.wait(5)[1:] == [
        ("part", 1, b'"a"', False),
        ("part", 2, b'["b", "c"]', True),
        ("part", 4, b'"d"', False),
        ("result", b'"end"'),
    ]
    assert [each.wait() for each in sent] == [None] * 3


def test_a_part_that_was_sent_twice_arrives_once(caller, callee, announced):
    pending = ask(caller)
    (incoming,) = pop_all(announced.consumer, 1)
    for seq, args, joined in ((1, b"[1, 2]", True), (1, b"[1, 2]", True), (3, b"3", False), (3, b"3", False)):
        callee.part(incoming, announced.id, Outcome(), seq, args, joined)
    callee.result(incoming, b"4", Outcome())
    assert pending.wait(4)[1:] == [("part", 1, b"[1, 2]", True), ("part", 3, b"3", False), ("result", b"4")]


def test_a_call_that_lacks_a_part_fails(caller, callee, announced):
    pending = ask(caller)
    (incoming,) = pop_all(announced.consumer, 1)
    callee.part(incoming, announced.id, Outcome(), 1, b"1")
    callee.part(incoming, announced.id, Outcome(), 3, b"3")
    callee.result(incoming, b"4", Outcome())
    *before, (kind, args) = pending.wait(3)
    assert before == [("stored", None), ("part", 1, b"1", False)]
    assert (kind, pending.failed) == ("result", True)
    assert b'"type":"PartsLost"' in args


def test_parts_may_be_left_out_if_only_the_latest_is_wanted(caller, callee, announced):
    pending = ask(caller, StoredParts("latest", 1))
    (incoming,) = pop_all(announced.consumer, 1)
    callee.part(incoming, announced.id, Outcome(), 1, b"1")
    callee.part(incoming, announced.id, Outcome(), 7, b"7")
    callee.result(incoming, b"8", Outcome())
    assert pending.wait(4)[1:] == [("part", 1, b"1", False), ("part", 7, b"7", False), ("result", b"8")]


def test_credit_reaches_the_callee_that_has_taken_the_call(caller, callee, announced):
    pending = ask(caller)
    (incoming,) = pop_all(announced.consumer, 1)
    callee.part(incoming, announced.id, Outcome(), 1, b"1")
    pending.wait(2)
    caller.credit(pending, 20)
    caller.credit(pending, 30)
    announced.recorder.wait(("credit", (incoming.msg_uuid, 30)))
    callee.result(incoming, b"4", Outcome())
    pending.wait(3)


def test_the_timeout_counts_from_part_to_part(caller, callee, announced):
    pending = ask(caller, timeout=1.0)
    (incoming,) = pop_all(announced.consumer, 1)
    first = pending.deadline
    callee.part(incoming, announced.id, Outcome(), 1, b"1")
    pending.wait(2)
    assert first < pending.deadline < first + 2


@pytest.mark.parametrize("parts", [ALL, None])
def test_a_call_fails_when_its_callee_has_gone(caller, callee, announced, parts):
    pending, other = ask(caller, parts, timeout=30.0), ask(caller, None)
    incoming, second = pop_all(announced.consumer, 2)
    callee.part(incoming, announced.id, Outcome())
    callee.result(second, b"1", Outcome())
    other.wait(2)  # its result follows what was reported
    callee.unlisten(announced.id)
    kind, args = pending.wait(2)[1]
    assert (kind, pending.failed) == ("result", True)
    assert b'"type":"CalleeGone"' in args
    assert caller.in_flight(None) == 0


def test_the_timeout_of_a_call_without_parts_counts_from_its_start(caller, callee, announced):
    pending = ask(caller, None, timeout=1.0)
    (incoming,) = pop_all(announced.consumer, 1)
    first = pending.deadline
    callee.part(incoming, announced.id, Outcome())
    assert pending.wait(2) == [("stored", None), ("expired",)]
    assert pending.deadline == first
