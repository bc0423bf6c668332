"""Greenlets that run one job after another."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar

import gevent
import pytest
from gevent.event import Event

from juggler.process.spare_greenlets import SpareGreenlets
from tests.support import eventually


@pytest.fixture
def greenlets():
    greenlets = SpareGreenlets("test")
    yield greenlets
    greenlets.close()
    eventually(lambda: greenlets.living == 0)


def run(greenlets, *jobs):
    """Run jobs, and wait until each has completed or blocks."""
    for job in jobs:
        greenlets.run_soon(job)
    gevent.sleep(0)


def test_jobs_that_do_not_block_share_a_greenlet(greenlets):
    seen = []
    run(greenlets, *[lambda: seen.append(gevent.getcurrent())] * 3)
    run(greenlets, lambda: seen.append(gevent.getcurrent()))
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0].name == "test"
    assert (greenlets.started, greenlets.living) == (1, 1)


def test_a_blocked_job_holds_up_no_other(greenlets):
    go, done = Event(), []

    def block():
        go.wait()
        done.append("blocked")

    run(greenlets, block, block, lambda: done.append("other"))
    assert done == ["other"]
    assert (greenlets.living, greenlets.busy) == (3, 2)
    go.set()
    eventually(lambda: done == ["other", "blocked", "blocked"])
    run(greenlets, lambda: done.append("after"))
    assert done[-1] == "after"
    assert greenlets.started == 3


def test_a_job_that_fails_is_reported_and_costs_no_greenlet(greenlets, capsys):
    done = []

    def fail():
        raise ValueError("of a job")

    run(greenlets, fail, lambda: done.append(1))
    assert done == [1]
    assert "ValueError: of a job" in capsys.readouterr().err
    assert greenlets.started == 1


def test_a_job_that_is_killed_costs_no_greenlet(greenlets, capsys):
    killed = []
    run(greenlets, lambda: killed.append(gevent.getcurrent()) or Event().wait())
    killed[0].kill(block=False)
    gevent.sleep(0)
    done = []
    run(greenlets, lambda: done.append(1))
    assert done == [1]
    assert greenlets.started == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("left", ["kill", "timeout"])
def test_what_a_job_leaves_behind_does_not_lose_the_next_one(greenlets, left):
    def leave():
        if left == "kill":
            gevent.getcurrent().kill(block=False)
        else:
            gevent.Timeout.start_new(0.001)

    run(greenlets, leave)
    eventually(lambda: greenlets.living == 0)
    done = []
    run(greenlets, lambda: done.append(1))
    assert done == [1]


def test_context_variables_do_not_outlive_a_job(greenlets):
    user, seen = ContextVar("user", default="nobody"), []

    def job():
        seen.append(user.get())
        user.set("ann")

    run(greenlets, job)
    run(greenlets, job)
    assert seen == ["nobody", "nobody"]
    assert greenlets.started == 1


def test_a_greenlet_that_waits_keeps_nothing_alive(greenlets):
    class Job:
        def __call__(self):
            pass

    job = Job()
    alive = weakref.ref(job)
    run(greenlets, job)
    del job
    gc.collect()
    assert alive() is None
    assert greenlets.living == 1


def test_few_greenlets_are_kept(greenlets):
    go = Event()
    run(greenlets, *[go.wait] * 100)
    assert greenlets.living == 100
    go.set()
    eventually(lambda: greenlets.living == 64)
    run(greenlets, *[lambda: None] * 64)
    assert greenlets.started == 100


def test_after_close_jobs_run_and_no_greenlet_is_kept(greenlets):
    go, done = Event(), []
    run(greenlets, go.wait, lambda: None)
    greenlets.close()
    eventually(lambda: greenlets.living == 1)
    run(greenlets, lambda: done.append(1))
    assert done == [1]
    go.set()
    eventually(lambda: greenlets.living == 0)
