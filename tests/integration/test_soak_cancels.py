"""The soak's cancels and slow reader pass, and notice ends that are lost or doubled, and functions that go on."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from juggler.broker.redis import RedisBroker
from juggler.handlers import chain
from juggler.protocol.messages import Res
from loadtest.disturbances import Disturbances
from loadtest.soak import cancels as cancels_module
from loadtest.soak.cancels import Cancels
from loadtest.soak.slow_reader import WINDOW, SlowReader
from tests.integration.commands import ROOT
from tests.integration.test_callee_command import running
from tests.stack import running_server
from tests.support import eventually

IGNORING = """
from callee import Callee
from loadtest.soak.desk import poll, sleep

rpc = Callee()
rpc.register("soak.sleep", sleep, cancel="ignore")
rpc.register("soak.poll.thread", poll, pool="thread")
rpc.register("soak.sleep.process", sleep, pool="process", cancel="raise")
"""

pytestmark = pytest.mark.leaves_keys("juggler:results:*")  # of calls that were cancelled last


@contextmanager
def stack(tmp_path, redis_url, target="loadtest.soak.desk:rpc", handler=None):
    """A server and a callee; yields the server's URL and the file of the notes."""
    options = {} if handler is None else {"handler": chain(handler)}
    notes = tmp_path / "notes"
    with (
        running(target, "--redis", redis_url, SOAK_NOTES=str(notes), PYTHONPATH=f"{ROOT}:{tmp_path}") as callee,
        running_server(RedisBroker(redis_url), max_calls=1000, **options) as server,
    ):
        assert callee.said.startswith("serving"), callee.stderr.read()
        yield server.url, notes


@contextmanager
def cancelling(tmp_path, redis_url, **options):
    with stack(tmp_path, redis_url, **options) as (url, notes):
        cancels = Cancels([url], redis_url, notes, Disturbances())
        try:
            yield cancels.accounts
        finally:
            cancels.stop()


def test_cancels(tmp_path, redis_url):
    with cancelling(tmp_path, redis_url) as accounts:
        wanted = {"result", "cancelled", "Cancelled", "disconnected"}
        eventually(lambda: accounts.cancels > 60 and wanted <= accounts.ends.keys(), timeout=60)
    assert dict(accounts.violations.counts) == {}
    assert accounts.ends.keys() == wanted


@pytest.mark.parametrize(("times", "violation"), [(0, "a call without an end"), (2, "a second end")])
def test_the_end_of_a_cancelled_call_that_is_lost_or_doubled(tmp_path, redis_url, monkeypatch, times, violation):
    def harming(next_handler):
        def handler(ctx, connection, message):
            is_harmed = isinstance(message, Res) and b'"Cancelled"' in message.args
            for _ in range(times if is_harmed else 1):
                next_handler(ctx, connection, message)

        return handler

    monkeypatch.setattr(cancels_module, "STOP_TIMEOUT", 5.0)
    with cancelling(tmp_path, redis_url, handler=harming) as accounts:
        eventually(lambda: accounts.cancels > 60, timeout=60)
    assert violation in accounts.violations.counts


def test_a_function_that_goes_on_after_its_cancel(tmp_path, redis_url, monkeypatch):
    (tmp_path / "ignoring.py").write_text(IGNORING)
    monkeypatch.setattr(cancels_module, "ENDLESS", 1.0)
    with cancelling(tmp_path, redis_url, target="ignoring:rpc") as accounts:
        eventually(lambda: accounts.cancels > 60, timeout=60)
    assert "a cancelled function kept running" in accounts.violations.counts


def test_a_slow_reader(tmp_path, redis_url):
    with stack(tmp_path, redis_url, target="loadtest.soak.desk:flows") as (url, notes):
        reader = SlowReader(url, notes, Disturbances())
        eventually(lambda: reader.bytes > 5_000_000)
        reader.stop()
    assert dict(reader.violations.counts) == {}
    assert reader.streams == 1
    assert WINDOW // 2 <= reader.most <= 2 * WINDOW
