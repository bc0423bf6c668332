"""The worker runs calls at a time and in bounds, answers each, and ends in order."""

from __future__ import annotations

import json
import logging
import time

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event

from callee import Callee
from callee.worker import Worker
from juggler.broker.memory import MemoryBroker
from juggler.errors import BrokerUnavailable, CapacityExceeded
from tests.recorders import RecordedCall
from tests.support import eventually


class Service:
    """A worker that runs in a greenlet, its broker, and its callers."""

    def __init__(self) -> None:
        self.rpc = Callee()
        self.broker = MemoryBroker(blocking_timeout=0.02)
        self.worker: Worker | None = None
        self.running: gevent.Greenlet | None = None

    def start(self, broker=None, **options) -> Worker:
        self.worker = Worker(self.rpc, broker or self.broker, **{"grace": 5.0, **options})
        self.running = gevent.spawn(self.worker.run)
        return self.worker

    def call(self, uri="f", args=b"null", timeout=5.0) -> RecordedCall:
        pending = RecordedCall()
        self.broker.call(uri, args, timeout, pending)
        return pending

    def ask(self, uri="f", args=b"null"):
        return result(self.call(uri, args))

    def stop(self):
        self.worker.stop()
        return self.running.get(timeout=10)


def result(pending):
    (_, error), (kind, args) = pending.wait(2)
    assert (error, kind) == (None, "result")
    return json.loads(args)


def counts(worker):
    total = worker.stats.total()
    return total.requests, total.successes, total.failures, total.expiries


@pytest.fixture
def service():
    service = Service()
    yield service
    if service.running is not None and not service.running.dead:
        service.stop()
    service.broker.close()


class Gate:
    """A function that waits until it is let through, and knows how many are inside."""

    def __init__(self):
        self.open = Event()
        self.inside = self.most = 0

    def __call__(self, value):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            self.open.wait()
        finally:
            self.inside -= 1
        return value


def test_calls_are_answered(service):
    service.rpc.register("double", lambda n: n * 2)
    service.rpc.register("upper", str.upper)
    worker = service.start()
    assert service.ask("double", b"21") == 42
    assert service.ask("upper", b'"abc"') == "ABC"
    assert counts(worker) == (2, 2, 0, 0)
    assert repr(worker.stats.by_uri["upper"]) == "1 requests, 1 successes, 0 failures, 0 expiries"


def test_only_the_given_uris_are_served(service):
    service.rpc.register("f", lambda _: 1)
    service.rpc.register("g", lambda _: 2)
    service.start(uris=["g"])
    left = service.call("f", timeout=0.1)
    assert service.ask("g") == 2
    assert left.wait(2)[1] == ("expired",)


def test_a_slow_call_does_not_hold_up_others(service):
    gate = Gate()
    service.rpc.register("slow", gate)
    service.rpc.register("quick", lambda _: "quick")
    service.start()
    slow = service.call("slow", b"1")
    eventually(lambda: gate.inside)
    assert service.ask("quick") == "quick"
    gate.open.set()
    assert result(slow) == 1


def test_no_more_calls_are_taken_than_may_run(service):
    gate = Gate()
    service.rpc.register("f", gate)
    service.broker = LoggingBroker()
    service.start(concurrency=3)
    calls = [service.call(args=b"%d" % number) for number in range(8)]
    eventually(lambda: gate.inside == 3)
    other = MemoryBroker.calls(service.broker, ["f"])
    assert [incoming.args for incoming in other.pop(1)] == [b"3"]
    other.close()
    gate.open.set()
    del calls[3]
    assert [result(pending) for pending in calls] == [0, 1, 2, 4, 5, 6, 7]
    assert gate.most == 3
    assert 1 <= min(service.broker.limits) <= max(service.broker.limits) == 3


def test_greenlets_are_reused_and_no_more_than_needed(service):
    gate, seen = Gate(), set()
    service.rpc.register("gate", gate)
    service.rpc.register("f", lambda _: seen.add(gevent.getcurrent()))
    service.start(concurrency=10)
    for _ in range(50):
        service.ask()
    assert len(seen) == 1
    waiting = [service.call("gate") for _ in range(3)]
    eventually(lambda: gate.inside == 3)
    gate.open.set()
    for pending in waiting:
        result(pending)
    for pending in [service.call() for _ in range(50)]:
        result(pending)
    assert 1 <= len(seen) <= 10


@pytest.mark.parametrize(
    "exception",
    [ValueError("no"), SystemExit("no"), GreenletExit("no"), gevent.Timeout(1, "no"), BaseException("no")],
    ids=lambda exception: type(exception).__name__,
)
def test_an_exception_answers_its_call_and_is_logged(service, caplog, exception):
    def fail(_):
        raise exception

    service.rpc.register("fail", fail)
    service.rpc.register("f", lambda _: 1)
    worker = service.start(concurrency=1)
    pending = service.call("fail")
    assert result(pending)["error"]["type"] == type(exception).__name__
    assert "no" in result(pending)["error"]["message"]
    assert service.ask() == 1
    assert counts(worker) == (2, 1, 1, 0)
    (record,) = caplog.records
    assert pending.call_id in record.getMessage()
    assert "'fail'" in record.getMessage()
    assert record.exc_info[1] is exception


def test_a_keyboard_interrupt_answers_its_call_and_ends_the_worker(service):
    def interrupt(_):
        raise KeyboardInterrupt

    service.rpc.register("f", interrupt)
    pending = service.call()
    # In this greenlet: gevent raises a KeyboardInterrupt of any other here at once.
    with pytest.raises(KeyboardInterrupt):
        Worker(service.rpc, service.broker).run()
    assert result(pending) == {"error": {"message": "KeyboardInterrupt", "type": "KeyboardInterrupt"}}


@pytest.mark.parametrize("value", [float("nan"), b"x", {1}], ids=repr)
def test_a_result_that_cannot_be_sent_is_an_error_and_is_logged(service, caplog, value):
    service.rpc.register("f", lambda _: value)
    worker = service.start()
    assert "cannot be sent" in service.ask()["error"]["message"]
    assert counts(worker) == (1, 0, 1, 0)
    assert "cannot be sent" in caplog.text


def test_bad_args_never_stop_the_loop(service):
    service.rpc.register("f", lambda value: value)
    service.start()
    assert service.ask(args=b"[1,")["error"]["type"] == "InvalidValue"
    assert service.ask(args=b"[1]") == [1]


def test_a_call_that_expired_on_the_way_is_not_run(service):
    ran = []
    service.rpc.register("f", ran.append)
    now = time.monotonic()
    worker = service.start(clock=lambda: now + 3600)
    service.call()
    eventually(lambda: counts(worker) == (1, 0, 0, 1))
    assert ran == []


def test_a_call_that_took_too_long_counts_as_expired(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start()
    pending = service.call(timeout=0.05)
    assert pending.wait(2)[1] == ("expired",)
    gate.open.set()
    eventually(lambda: counts(worker) == (1, 0, 0, 1))
    assert service.broker.dropped == 0


def test_stop_lets_running_calls_end_and_takes_no_more(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start()
    running = service.call(args=b"1")
    eventually(lambda: gate.inside)
    worker.stop()
    eventually(lambda: not service.broker._consumers)
    late = service.call(args=b"2", timeout=0.1)
    gate.open.set()
    assert service.running.get(timeout=5) == 0
    assert result(running) == 1
    assert late.wait(2)[1] == ("expired",)


def test_stop_may_come_first_and_more_than_once(service):
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    worker.stop()
    worker.stop()
    assert service.running.get(timeout=5) == 0


def test_calls_that_do_not_end_are_given_up_and_told(service, caplog):
    gate = Gate()
    service.rpc.register("f", gate)
    service.start(grace=0.05)
    calls = [service.call(), service.call()]
    eventually(lambda: gate.inside == 2)
    assert service.stop() == 2
    assert gate.inside == 0
    for pending in calls:
        assert result(pending)["error"]["message"] == "the callee was stopped before the function had ended"
    assert "gave up on 2 calls that did not end within 0.05 s: f (2)" in caplog.text


class LoggingBroker(MemoryBroker):
    """Writes down how many calls were asked for."""

    def __init__(self):
        super().__init__(blocking_timeout=0.02)
        self.limits = []

    def calls(self, uris):
        consumer = super().calls(uris)
        pop = consumer.pop
        consumer.pop = lambda limit: self.limits.append(limit) or pop(limit)
        return consumer


class FailingBroker(MemoryBroker):
    """Its pops and results fail as told."""

    def __init__(self, *errors):
        super().__init__(blocking_timeout=0.02)
        self.errors = list(errors)
        self.result_error = None

    def calls(self, uris):
        consumer = super().calls(uris)
        pop = consumer.pop

        def failing_pop(limit):
            if self.errors:
                raise self.errors.pop(0)
            return pop(limit)

        consumer.pop = failing_pop
        return consumer

    def result(self, call, args, on_done):
        if self.result_error is None:
            super().result(call, args, on_done)
        else:
            on_done(self.result_error)


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("callee.worker.RETRY_PAUSE", 0.001)


def test_an_outage_is_logged_once_and_popping_goes_on(service, caplog, no_pause):
    caplog.set_level(logging.INFO, "juggler.callee")
    away = [BrokerUnavailable("redis is away") for _ in range(5)]
    service.broker = FailingBroker(*away, ZeroDivisionError("bug"), BrokerUnavailable("redis is away"))
    service.rpc.register("f", lambda _: 1)
    service.start()
    assert service.ask() == 1
    assert [record.getMessage() for record in caplog.records] == [
        "no calls can be taken for now: redis is away",
        "no calls can be taken for now: bug",
        "no calls can be taken for now: redis is away",
        "the broker is back",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False, False]


def test_an_outage_does_not_keep_it_from_stopping(service):
    service.broker = FailingBroker(*[BrokerUnavailable("redis is away")] * 1000)
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    eventually(lambda: len(service.broker.errors) < 1000)
    worker.stop()
    assert service.running.get(timeout=5) == 0


def test_a_result_that_cannot_be_stored_is_logged(service, caplog):
    service.broker = FailingBroker()
    service.broker.result_error = CapacityExceeded()
    service.rpc.register("f", lambda _: 1)
    service.start()
    pending = service.call()
    eventually(lambda: f"call {pending.call_id} of 'f' is lost: list capacity exceeded" in caplog.text)


def test_stop_waits_until_results_are_stored(service):
    told = []
    service.broker.result = lambda call, args, on_done: told.append(on_done)
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    service.call()
    eventually(lambda: told)
    worker.stop()
    eventually(lambda: not service.broker._consumers)
    gevent.sleep(0)
    assert not service.running.dead
    told[0](None)
    assert service.running.get(timeout=5) == 0


def test_a_worker_needs_functions(service):
    with pytest.raises(ValueError, match="at least one URI"):
        Worker(service.rpc, service.broker)
    with pytest.raises(ValueError, match="no function is registered for x, y"):
        Worker(service.rpc, service.broker, uris=["x", "y"])
    service.rpc.register("f", lambda _: 1)
    with pytest.raises(ValueError, match="concurrency: expected at least 1, got 0"):
        Worker(service.rpc, service.broker, concurrency=0)


def test_a_timeout_that_a_function_left_behind_costs_no_other_call(service):
    def leaky(value):
        gevent.Timeout(0.02).start()
        return value

    service.rpc.register("leaky", leaky)
    service.rpc.register("f", lambda value: value)
    service.start(concurrency=1)
    assert service.ask("leaky", b"1") == 1
    gevent.sleep(0.04)
    assert [service.ask("f", b"2") for _ in range(3)] == [2, 2, 2]


def test_an_exception_whose_text_raises_is_named(service):
    class Nasty(Exception):
        def __str__(self):
            raise SystemExit(3)

    def nasty(value):
        raise Nasty

    service.rpc.register("f", nasty)
    service.start()
    assert service.ask() == {"error": {"message": "Nasty", "type": "Nasty"}}
    assert service.ask() == {"error": {"message": "Nasty", "type": "Nasty"}}
