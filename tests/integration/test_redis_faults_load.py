"""Redis and callees fail under load, each in its own process: losses are counted, and nothing is duplicated."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import gevent
import pytest

from tests.integration.commands import callee_process, server_process
from tests.load import Load
from tests.support import eventually


@pytest.fixture
def load(mortal) -> Iterator[Load]:
    """Load on a healthy server and callee."""
    mortal.start()
    with ExitStack() as stack:
        stack.enter_context(callee_process(mortal.url))
        url = stack.enter_context(server_process(mortal.url))
        load = stack.enter_context(Load(url))
        load.flows()
        yield load


def test_nothing_is_lost_when_nothing_happens(load):
    counts = load.counts()
    assert counts.calls == counts.acknowledged == counts.answered
    assert counts.events == counts.published > 0


def test_redis_is_killed_and_comes_back_empty(mortal, load):
    mortal.kill()
    eventually(lambda: any(call.answers and not call.acknowledged for c in load.clients for call in c.calls))
    mortal.start()
    load.flows()
    counts = load.counts()
    assert counts.refused > 0
    # Only calls that were in flight at that moment.
    assert counts.expired <= load.most_under_way


def test_redis_is_suspended_for_a_moment(mortal, load):
    mortal.signal(signal.SIGSTOP)
    gevent.sleep(1.0)
    mortal.signal(signal.SIGCONT)
    load.flows()
    counts = load.counts()
    assert counts.calls == counts.acknowledged == counts.answered
    assert counts.events == counts.published


def test_redis_is_suspended_until_the_timeout(mortal, load):
    mortal.signal(signal.SIGSTOP)
    eventually(lambda: any(call.answers and not call.acknowledged for c in load.clients for call in c.calls), timeout=8)
    mortal.signal(signal.SIGCONT)
    load.flows()
    counts = load.counts()
    assert counts.refused > 0
    assert counts.expired <= load.most_under_way


def test_all_connections_are_cut_again_and_again(mortal, load):
    cuts = 5
    with mortal.client() as client:
        for _ in range(cuts):
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
            load.flows(50)
    counts = load.counts()
    assert counts.expired <= cuts * load.most_under_way
    assert counts.answered > 0.5 * counts.calls


def test_a_callee_is_killed_in_the_middle_of_calls(mortal):
    mortal.start()
    with ExitStack() as stack:
        first = stack.enter_context(callee_process(mortal.url))
        load = stack.enter_context(Load(stack.enter_context(server_process(mortal.url))))
        load.flows()
        first.kill()
        first.wait()
        stack.enter_context(callee_process(mortal.url))
        load.flows()
        counts = load.counts()
    assert counts.refused == 0
    # Calls that it had popped are lost, queued calls are not.
    assert 0 < counts.expired <= load.most_under_way
    assert counts.events == counts.published
