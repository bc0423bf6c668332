"""Monkey-patch, and set up signals, hypothesis, pytest-xdist and timeouts. pytest loads it first: ``-p tests.plugin``.

The library never patches; the test runner does, like a command, before sockets and locks are created.
"""

from juggler.process.patching import patch_all

patch_all()

import gc  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import greenlet  # noqa: E402
import hypothesis  # noqa: E402
import pytest  # noqa: E402

from juggler.process import embedded  # noqa: E402

# pytest keeps the tests that it has compiled, also where PYTHONDONTWRITEBYTECODE is set, which child processes follow.
sys.dont_write_bytecode = False

# A shell starts background jobs with SIGINT ignored, which child processes of the tests would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline per example: it would fail on a busy machine. CI tries more examples, always the same ones.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=30)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaves_keys(*patterns): Redis keys that the test may leave behind")
    config.addinivalue_line("markers", "alone: measures time or memory; `make test` runs it when nothing else runs")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(IdleWorker())
        # Each worker of pytest-xdist has free ports of its own.
        number = int(config.workerinput["workerid"].removeprefix("gw"))
        embedded.OWN_PORTS = embedded.OWN_PORTS[number :: config.workerinput["workercount"]]


def pytest_collection_finish() -> None:
    # Thousands of tests stay until the end: the garbage collector does not look at them again.
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of an ``xdist_group`` in one worker. With pytest 9.2, xdist 3.8 does not see groups.

    A group has all tests of the files that name it. Groups run first, so that no worker is left alone with a long one.
    """
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / nodeid.partition("::")[0]) or nodeid

    return Scheduling(config, log) if config.option.dist == "loadgroup" else None


@cache
def _group(path: Path) -> str:
    found = re.search(r'mark\.xdist_group\("([\w-]+)"\)', path.read_text("utf-8"))
    return found[1] if found else ""


class IdleWorker:
    """Keeps gevent's loop running while a worker of pytest-xdist waits for its next test.

    xdist's reader is a native thread, which gevent does not see: the worker would end with `LoopExit`. During a test
    nothing is kept, so a test that would block forever still fails at once.
    """

    def __init__(self) -> None:
        self._timer = gevent.get_hub().loop.timer(3600, repeat=3600)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[Any]:
        self._timer.start(lambda: None)
        try:
            return (yield)
        finally:
            self._timer.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Iterator[Any]:
        self._timer.stop()
        try:
            return (yield)
        finally:
            self._timer.start(lambda: None)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: Any, settings: Any) -> bool:
    """Interrupt a test at its timeout, whether it computes or waits for gevent's loop.

    pytest-timeout itself raises in the signal handler. While the test waits, that is in gevent's hub, which prints the
    exception and continues.
    """
    handler = _interrupter(greenlet.getcurrent(), settings.timeout)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True


def _interrupter(test: greenlet.greenlet, timeout: float) -> Callable[[int, Any], None]:
    def interrupt(signum: int, frame: Any) -> None:
        current = greenlet.getcurrent()
        failure = pytest.fail.Exception(f"timeout: the test took longer than {timeout:g} s")
        if current is not test:
            gevent.get_hub().loop.run_callback_threadsafe(test.throw, failure)
        if current is not gevent.get_hub():
            raise failure

    return interrupt
