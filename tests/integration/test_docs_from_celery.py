"""docs/coming-from-celery.md: the code runs both ways, with a worker of Celery. Only the addresses are put in."""

from __future__ import annotations

import re
import sys

import celery
import pytest
from celery.app.defaults import DEFAULTS
from celery.app.task import Task
from kombu.transport.redis import Channel

from juggler.client import Client
from tests.docs import DOCS, python_blocks
from tests.integration.commands import run_python, running, running_python
from tests.support import eventually

PAGE = (DOCS / "coming-from-celery.md").read_text("utf-8")
SHOWN = "redis://127.0.0.1:6379"
IDENTIFYING = """
from juggler import RedisBroker, Server

broker = RedisBroker("redis://127.0.0.1:6379")
server = Server(caller_broker=broker, pubsub_broker=broker, connect=lambda request: {"user": "ann"})
"""


@pytest.fixture
def shop(mortal, tmp_path, monkeypatch):
    """The files of the page, with the address of a Redis; returns it."""
    mortal.start()
    for text in python_blocks("coming-from-celery.md"):
        (tmp_path / re.match(r"# (\w+\.py)\n", text)[1]).write_text(text.replace(SHOWN, mortal.url))
    (tmp_path / "identifying.py").write_text(IDENTIFYING.replace(SHOWN, mortal.url))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.chdir(tmp_path)
    return mortal.url


def worker(module):
    return running_python("-m", "celery", "-A", module, "worker", "--pool", "solo", "--without-mingle")


def test_both_ways_print_the_same(shop):
    expected = ["6", "PROGRESS", "PROGRESS", "PROGRESS", "SUCCESS", "3"]
    with worker("tasks"):
        # On a busy machine, the task may have completed before the program listens for its messages.
        eventually(lambda: run_python("before.py").stdout.splitlines() == expected, timeout=60)
    with running_python("-m", "callee.cli", "callees:rpc", "--redis", shop) as callee:
        assert callee.stdout.readline(), callee.stderr.read()
        after = run_python("after.py")
    assert after.stdout.splitlines() == ["6", "0", "1", "2", "3"], after.stderr


def test_a_job_reports_to_the_browser(shop):
    with (
        worker("jobs"),
        running_python("-m", "callee.cli", "reports:rpc", "--redis", shop) as callee,
        running("server", "identifying:server", "--bind", "127.0.0.1:0") as server,
    ):
        assert callee.stdout.readline(), callee.stderr.read()
        url = re.search(r"ws://\S+", server.stdout.readline()).group()
        with Client(url) as client, client.subscribe("user.ann") as news:
            client.call("report.start", "2026-11")
            percents = [news.get(timeout=60).args["percent"] for _ in range(2)]
    assert percents == [50, 100]


def test_what_it_says_of_celery_is_so():
    assert f"Celery {celery.__version__.rpartition('.')[0]}" in PAGE or celery.VERSION > (5, 7)
    assert (Channel.visibility_timeout, DEFAULTS["result_expires"].days) == (3600, 1)
    assert not DEFAULTS["task_acks_late"]
    for name in ("acks_late", "reject_on_worker_lost", "time_limit", "soft_time_limit", "rate_limit", "update_state"):
        assert hasattr(Task, name), name
