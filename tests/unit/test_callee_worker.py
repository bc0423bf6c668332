"""The worker runs calls concurrently and within limits, answers each, and shuts down gracefully."""

from __future__ import annotations

import inspect
import json
import logging
import time
from contextvars import ContextVar, copy_context
from copy import copy
from decimal import getcontext

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event

from callee import Callee, CallError, current_call, given_up, publish, time_left
from juggler.broker import CalleeBroker
from juggler.broker.memory import MemoryBroker
from juggler.callee.worker import Worker
from juggler.errors import BrokerUnavailable, CapacityExceeded
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber
from tests.support import eventually


class Service:
    """A worker that runs in a greenlet, its broker, and its callers."""

    def __init__(self) -> None:
        self.rpc = Callee()
        self.broker = MemoryBroker(blocking_timeout=0.02)
        self.worker: Worker | None = None
        self.running: gevent.Greenlet | None = None

    def start(self, broker=None, **options) -> Worker:
        self.worker = Worker(self.rpc, broker or self.broker, **{"grace": 5.0, "mask_errors": False, **options})
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
    assert "uri=fail" in record.getMessage()
    assert record.exc_info[1] is exception


def test_a_keyboard_interrupt_answers_its_call_and_ends_the_worker(service):
    def interrupt(_):
        raise KeyboardInterrupt

    service.rpc.register("f", interrupt)
    pending = service.call()
    # In this greenlet: gevent raises a KeyboardInterrupt of any other here at once.
    with pytest.raises(KeyboardInterrupt):
        Worker(service.rpc, service.broker, mask_errors=False).run()
    assert result(pending) == {"error": {"message": "KeyboardInterrupt", "type": "KeyboardInterrupt"}}


@pytest.mark.parametrize("value", [float("nan"), b"x", {object}], ids=["nan", "bytes", "set"])
def test_a_result_that_cannot_be_sent_is_an_error_and_is_logged(service, caplog, value):
    service.rpc.register("f", lambda _: value)
    worker = service.start()
    assert "cannot be encoded as JSON" in service.ask()["error"]["message"]
    assert counts(worker) == (1, 0, 1, 0)
    assert "cannot be encoded as JSON" in caplog.text


def test_bad_args_never_stop_the_loop(service):
    service.rpc.register("f", lambda value: value)
    service.start()
    assert service.ask(args=b"[1,")["error"]["type"] == "InvalidValue"
    assert service.ask(args=b"[1]") == 1


def test_a_call_that_expired_on_the_way_is_not_run(service):
    ran = []
    service.broker = LateBroker(blocking_timeout=0.02)
    service.rpc.register("f", ran.append)
    worker = service.start()
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
    assert service.broker.stats().late_results == 0


def test_stop_lets_running_calls_end_and_takes_no_more(service):
    gate = Gate()
    service.broker = LoggingBroker()
    service.rpc.register("f", gate)
    worker = service.start()
    running = service.call(args=b"1")
    eventually(lambda: gate.inside)
    worker.stop()
    eventually(lambda: service.broker.closed)
    late = service.call(args=b"2", timeout=0.1)
    gate.open.set()
    assert service.running.get(timeout=30) == 0
    assert result(running) == 1
    assert late.wait(2)[1] == ("expired",)


def test_stop_may_come_first_and_more_than_once(service):
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    worker.stop()
    worker.stop()
    assert service.running.get(timeout=30) == 0


def test_calls_that_do_not_end_are_given_up_and_told(service, caplog):
    gate = Gate()
    service.rpc.register("f", gate)
    service.start(grace=0.05)
    calls = [service.call(), service.call()]
    eventually(lambda: gate.inside == 2)
    assert service.stop() == 2
    assert gate.inside == 0
    for pending in calls:
        assert result(pending)["error"]["message"] == "the callee stopped before the function completed"
    assert 'shutdown: calls abandoned calls=2 grace=0.05 uris="f (2)"' in caplog.text


def test_a_retired_worker_completes_calls_beyond_the_grace(service):
    gate = Gate()
    service.broker = LoggingBroker()
    service.rpc.register("f", gate)
    worker = service.start(grace=0.0)
    running = service.call(args=b"1")
    eventually(lambda: gate.inside)
    worker.retire()
    eventually(lambda: service.broker.closed)
    assert not service.running.join(0.3)
    assert gate.inside == 1
    gate.open.set()
    assert service.running.get(timeout=30) == 0
    assert result(running) == 1


def test_a_retired_worker_does_not_wait_for_calls_that_have_expired(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start(grace=0.0)
    service.call(timeout=0.3)
    eventually(lambda: gate.inside)
    worker.retire()
    assert service.running.get(timeout=30) == 1
    assert gate.inside == 0


def test_a_retired_worker_can_be_stopped(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start(grace=0.0)
    call = service.call(timeout=60)
    eventually(lambda: gate.inside)
    worker.retire()
    assert service.stop() == 1
    assert result(call)["error"]["message"] == "the callee stopped before the function completed"


class LoggingBroker(MemoryBroker):
    """Records the limits of pops, and the closing of consumers."""

    def __init__(self):
        super().__init__(blocking_timeout=0.02)
        self.limits = []
        self.closed = []

    def calls(self, uris):
        consumer = super().calls(uris)
        pop, close = consumer.pop, consumer.close
        consumer.pop = lambda limit: self.limits.append(limit) or pop(limit)
        consumer.close = lambda: self.closed.append(close())
        return consumer


class LateBroker(MemoryBroker):
    """Delivers calls just after their deadlines."""

    def calls(self, uris):
        consumer = super().calls(uris)
        pop = consumer.pop

        def late_pop(limit):
            calls = pop(limit)
            for call in calls:
                call.deadline = time.monotonic()
            return calls

        consumer.pop = late_pop
        return consumer


class FailingBroker(MemoryBroker):
    """Its pops and results fail with the given errors."""

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

    def result(self, call, args, on_done, failed=None):
        if self.result_error is None:
            super().result(call, args, on_done, failed)
        else:
            on_done(self.result_error)


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("juggler.callee.pool_consumer.RETRY_PAUSE", 0.001)


def test_an_outage_is_logged_once_and_popping_goes_on(service, caplog, no_pause):
    caplog.set_level(logging.INFO, "juggler.callee")
    away = [BrokerUnavailable("redis is away") for _ in range(5)]
    service.broker = FailingBroker(*away, ZeroDivisionError("bug"), BrokerUnavailable("redis is away"))
    service.rpc.register("f", lambda _: 1)
    service.start()
    assert service.ask() == 1
    assert [record.getMessage() for record in caplog.records] == [
        'consumer: connection to Redis lost pool=greenlet retry_in=0.001 error="redis is away"',
        "consumer: bug while popping calls pool=greenlet retry_in=0.001 error=bug",
        'consumer: connection to Redis lost pool=greenlet retry_in=0.001 error="redis is away"',
        "consumer: taking calls again pool=greenlet",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False, False]


def test_an_outage_does_not_keep_it_from_stopping(service):
    service.broker = FailingBroker(*[BrokerUnavailable("redis is away")] * 1000)
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    eventually(lambda: len(service.broker.errors) < 1000)
    worker.stop()
    assert service.running.get(timeout=30) == 0


def test_a_result_that_cannot_be_stored_is_logged(service, caplog):
    service.broker = FailingBroker()
    service.broker.result_error = CapacityExceeded()
    service.rpc.register("f", lambda _: 1)
    service.start()
    pending = service.call()
    eventually(lambda: f'call: result lost uri=f call={pending.call_id} error="list capacity exceeded"' in caplog.text)


def test_a_consumer_that_is_closed_stops_the_worker(service):
    service.broker = LoggingBroker()
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    assert service.ask() == 1
    service.broker.close()
    assert service.running.get(timeout=30) == 0
    assert worker.unhealthy_reason().startswith("stopping")


def test_stop_waits_until_results_are_stored(service):
    told = []
    service.broker = LoggingBroker()
    service.broker.result = lambda call, args, on_done, failed: told.append(on_done)
    service.rpc.register("f", lambda _: 1)
    worker = service.start()
    service.call()
    eventually(lambda: told)
    worker.stop()
    eventually(lambda: service.broker.closed)
    gevent.sleep(0)
    assert not service.running.dead
    told[0](None)
    assert service.running.get(timeout=30) == 0


def test_results_that_cannot_be_sent_have_the_grace_and_count_as_abandoned(service, caplog):
    service.broker = LoggingBroker()
    service.broker.result = lambda call, args, on_done, failed: None
    service.rpc.register("f", lambda _: 1)
    worker = service.start(grace=1.5)
    service.call()
    eventually(lambda: counts(worker)[1] == 1)
    began = time.monotonic()
    assert service.stop() == 1
    assert 1.5 <= time.monotonic() - began < 8
    assert "shutdown: results not sent results=1 grace=1.5" in caplog.text


class RestoredBroker(MemoryBroker):
    """Hands out each call three times, as a Redis that was restored from a snapshot."""

    def calls(self, uris):
        consumer = super().calls(uris)
        pop, taken = consumer.pop, []

        def pop_again(limit):
            if taken:
                return [taken.pop()]
            calls = pop(limit)
            taken.extend(copy(call) for call in calls * 2)
            return calls

        consumer.pop = pop_again
        return consumer


def test_a_call_that_comes_again_does_not_run_again(service, caplog, monkeypatch):
    monkeypatch.setattr("juggler.callee.worker.REMEMBERED_CALLS", 2)
    ran = []
    service.broker = RestoredBroker(blocking_timeout=0.02)
    service.rpc.register("f", lambda value: ran.append(value) or value)
    worker = service.start()
    for number in range(5):
        assert service.ask("f", b"%d" % number) == number
    eventually(lambda: len(caplog.records) == 10)
    assert ran == [0, 1, 2, 3, 4]
    assert counts(worker) == (5, 5, 0, 0)
    assert all("call: dropped, it has run before uri=f" in record.getMessage() for record in caplog.records)


def test_a_worker_without_functions_has_nothing_to_do(service, caplog):
    service.rpc.register("f", lambda: 1)
    for worker in (Worker({}, service.broker), Worker(service.rpc, service.broker, uris=[])):
        assert gevent.spawn(worker.run).get(timeout=10) == 0
        assert worker.unhealthy_reason() is None
        assert counts(worker) == (0, 0, 0, 0)
    assert caplog.text.count("worker: no function to serve") == 2


def test_a_worker_needs_functions(service):
    with pytest.raises(ValueError, match="no function is registered for x, y"):
        Worker(service.rpc, service.broker, uris=["x", "y"])
    service.rpc.register("g", lambda: 1, pool="thread")
    with pytest.raises(
        ValueError, match="source: expected MODULE:OBJECT of the callee, because g runs in the thread pool"
    ):
        Worker(service.rpc, service.broker)
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


# Context


def test_context_variables_of_a_call_are_its_own(service):
    variable = ContextVar("variable", default=0)

    def count():
        getcontext().prec += 1
        variable.set(variable.get() + 1)
        gevent.sleep(0)
        return [variable.get(), getcontext().prec]

    service.rpc.register("f", count)
    service.rpc.register("running", lambda: gevent.spawn(copy_context().run, current_call).get().uri)
    service.start(concurrency=1)
    first = service.ask("f")
    assert first[0] == 1
    assert service.ask("f") == first
    assert service.ask("running") == "running"


# Time


def test_the_function_knows_the_time_left(service):
    service.rpc.register("f", lambda: [0 < time_left() <= 5, given_up()])
    service.start()
    assert service.ask() == [True, False]


def test_a_deadline_that_is_enforced_ends_the_function(service, caplog):
    caplog.set_level(logging.INFO, "juggler.callee")
    gate = Gate()
    service.rpc.register("f", gate, deadline="enforce")
    worker = service.start()
    pending = service.call(timeout=0.05)
    eventually(lambda: counts(worker) == (1, 0, 0, 1))
    assert gate.inside == 0
    assert pending.wait(2)[1] == ("expired",)
    assert [record.exc_info for record in caplog.records] == [None]
    assert "the call was abandoned: its deadline has passed" in caplog.text


def test_a_time_limit_ends_a_function_that_somebody_waits_for(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start(time_limit=0.02)
    told = service.ask()["error"]
    assert told == {"message": "the function exceeded its time limit of 0.02 s", "type": "TimeLimitExceeded"}
    assert (gate.inside, counts(worker)) == (0, (1, 0, 1, 0))


# Errors


def test_errors_for_callers_are_no_fault_and_have_no_traceback(service, caplog):
    caplog.set_level(logging.INFO, "juggler.callee")

    def pay(amount: int):
        raise CallError("not enough", code=402)

    service.rpc.register("pay", pay)
    service.start(mask_errors=True)
    pending = service.call("pay", b"[3]")
    assert result(pending)["error"]["code"] == 402
    assert pending.failed is True
    assert service.ask("pay", b'["3"]')["error"]["message"] == "amount: Expected int, got str"
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None), ("INFO", None)]


def test_an_exception_with_json_of_its_own_is_for_the_caller(service, caplog):
    caplog.set_level(logging.INFO, "juggler.callee")

    class Gone(Exception):
        def __json__(self):
            return '{"gone": 1e400}'

    def fail():
        raise Gone("for good")

    service.rpc.register("f", fail)
    service.start(mask_errors=True)
    pending = service.call()
    _, (kind, args) = pending.wait(2)
    assert (kind, args, pending.failed) == ("result", b'{"gone": 1e400}', True)
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None)]
    assert service.worker.stats.by_uri["f"].failures == 1


def test_other_errors_are_hidden_by_default(service, caplog):
    service.rpc.register("f", lambda: 1 / 0)
    assert inspect.signature(Worker).parameters["mask_errors"].default is True
    service.start(mask_errors=True)
    pending = service.call()
    assert result(pending)["error"] == {"message": f"internal error, call {pending.call_id}", "type": "Internal"}
    assert "ZeroDivisionError" in caplog.text
    assert pending.call_id in caplog.text


# Events


def test_a_function_publishes(service):
    seen, done = RecordedSubscriber(), Outcome()
    service.broker.subscribe("news", False, seen, done)
    service.rpc.register("f", lambda: publish("news", {"a": [1]}))
    service.start()
    assert service.ask("f") is None
    assert seen.wait(1) == [("news", "", b'{"a":[1]}')]
    service.broker.unsubscribe_all(seen)


def test_what_cannot_be_published_is_told(service):
    service.rpc.register("f", lambda channel: publish(channel, 1))
    service.start()
    assert "must not be empty" in service.ask("f", b'""')["error"]["message"]


class CallsOnly(CalleeBroker):
    """A broker that does not publish."""

    def __init__(self, broker):
        self.calls, self.result, self.close = broker.calls, broker.result, broker.close

    calls = result = close = None


def test_a_broker_that_does_not_publish_says_so(service):
    service.rpc.register("f", lambda: publish("news"))
    service.start(broker=CallsOnly(service.broker))
    assert "cannot publish on 'news'" in service.ask()["error"]["message"]


# Health and figures


def test_a_worker_that_takes_calls_is_well(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start(concurrency=1)
    assert worker.unhealthy_reason() is None
    service.call(timeout=5)
    eventually(lambda: gate.inside)
    assert worker.unhealthy_reason() is None
    gate.open.set()
    service.stop()
    assert worker.unhealthy_reason().startswith("stopping")


def test_a_worker_whose_calls_all_run_too_long_is_not_well(service):
    gate = Gate()
    service.rpc.register("f", gate)
    worker = service.start(concurrency=1)
    service.call(timeout=0.3)
    eventually(lambda: worker.unhealthy_reason() == "all 1 concurrent calls have passed their deadlines")
    gate.open.set()
    eventually(lambda: worker.unhealthy_reason() is None)


def test_a_worker_without_a_broker_is_not_well(service, no_pause):
    service.broker = FailingBroker(*[BrokerUnavailable("redis is away")] * 20)
    service.rpc.register("f", lambda: 1)
    worker = service.start()
    eventually(lambda: worker.unhealthy_reason() == "cannot take calls: redis is away")
    eventually(lambda: worker.unhealthy_reason() is None)


def test_figures_by_uri(service):
    service.rpc.register("f", lambda: gevent.sleep(0.02))
    service.rpc.register("idle", lambda: None)
    worker = service.start()
    service.ask("f")
    service.ask("f")
    snapshot = worker.snapshot()
    assert snapshot.counters["juggler_callee_requests"] == {"f": 2}
    assert snapshot.counters["juggler_callee_successes"] == {"f": 2}
    assert snapshot.gauges["juggler_callee_running"] == {"f": 0}
    assert sum(snapshot.calls["f"].counts) == sum(snapshot.waits["f"].counts) == 2
    assert 0.04 < snapshot.calls["f"].total_seconds < 2


# Announcements


def test_what_is_served_is_announced_and_taken_back(service):
    service.rpc.register("f", lambda a, b: 1)
    service.rpc.register("g", lambda: 1)
    service.start()
    eventually(lambda: len(service.broker.functions()) == 2)
    assert [(f.uri, f.signature, f.callees) for f in service.broker.functions()] == [
        ("f", "(a, b)", 1),
        ("g", "()", 1),
    ]
    service.stop()
    assert service.broker.functions() == []


def test_announcing_can_be_left_out(service):
    service.rpc.register("f", lambda: 1)
    service.start(announce=False)
    assert service.ask() == 1
    assert service.broker.functions() == []
