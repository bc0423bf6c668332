"""What a supervisor makes of processes that end at the same time; real ones, that do nothing else."""

from __future__ import annotations

import sys

import pytest

from juggler.callee.command_options import Options
from juggler.callee.supervisor import Supervisor, _Child


@pytest.fixture
def supervisor():
    options = Options(
        name="nobody:rpc",
        processes=2,
        concurrency=1,
        threads=1,
        pool_processes=1,
        redis_url=None,
        pubsub_url=None,
        key_prefix="",
        fail_fast=False,
        only=(),
        without=(),
        grace=1.0,
        time_limit=None,
        mask_errors=False,
        reload=False,
        listen=None,
        health_file=None,
        log_level="info",
        log_format="text",
    )
    supervisor = Supervisor(options, [], print)
    yield supervisor
    supervisor.close()


def ended(code):
    """A process that has ended so."""
    child = _Child([sys.executable, "-c", f"raise SystemExit({code})"])
    child.process.wait(10)
    return child


def test_new_processes_that_die_together_are_no_old_ones(supervisor, caplog):
    supervisor._next = [ended(3), ended(3)]
    supervisor._on_ends()
    assert (supervisor._next, supervisor._children, supervisor._ending) == ([], [], [])
    assert supervisor._start_at == []
    assert caplog.text.count("not reloaded, the old ones go on") == 2


def test_old_processes_that_die_together_are_each_replaced(supervisor, caplog):
    supervisor._introduced = True
    supervisor._children = [ended(3), ended(3)]
    supervisor._on_ends()
    assert (supervisor._children, len(supervisor._start_at)) == ([], 2)
    assert caplog.text.count("another is started in") == 2
