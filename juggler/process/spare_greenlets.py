"""Greenlets that run one job after another. What is idle, a connection for example, needs no greenlet of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Context
from typing import TypeAlias

import gevent
from gevent.greenlet import Greenlet

Job: TypeAlias = "Callable[[], object]"

_KEPT = 64  # greenlets that wait for a job; more end with theirs


class SpareGreenlets:
    """Runs jobs, which may block, in reused greenlets.

    If none is idle, another one is started. At most 64 idle ones are kept. Each job has an empty
    `contextvars.Context`. What else a job leaves in its greenlet may reach the next one: values of `gevent.local`, and
    a `gevent.Timeout` that it has not closed.

    gevent's hub prints the exception of a job that fails.

    Args:
        name: name of the greenlets, for debuggers.

    Attributes:
        started: greenlets started so far.
        living: greenlets that have a job or wait for one.
    """

    def __init__(self, name: str) -> None:
        self.started = 0
        self.living = 0
        self._name = name
        self._idle: list[Greenlet] = []
        self._kept = _KEPT

    @property
    def busy(self) -> int:
        """Greenlets that have a job."""
        return self.living - len(self._idle)

    def run(self, job: Job) -> None:
        """Run a job until it has completed or blocks. Call it in the hub: in a callback of the event loop."""
        if self._idle:
            self._idle.pop().switch(job)
            return
        greenlet = Greenlet(self._run)
        greenlet.name = self._name
        greenlet.switch()  # until it waits for a job
        greenlet.switch(job)

    def run_soon(self, job: Job) -> None:
        """Run a job in this turn of the event loop. Does not block."""
        gevent.get_hub().loop.run_callback(self.run, job)

    def close(self) -> None:
        """End the greenlets, each once its job has completed. Jobs still run, in greenlets that are not kept."""
        self._kept = 0
        idle, self._idle = self._idle, []
        for greenlet in idle:
            greenlet.kill(block=False)

    def _run(self) -> None:
        greenlet = gevent.getcurrent()
        self.started += 1
        self.living += 1
        try:
            self._run_jobs(greenlet)
        finally:
            self.living -= 1
            if greenlet in self._idle:  # ended by a kill or a timeout that a job has left behind
                self._idle.remove(greenlet)

    def _run_jobs(self, greenlet: Greenlet) -> None:
        hub = gevent.get_hub()
        while True:
            job = hub.switch()
            try:
                Context().run(job)
            except BaseException:
                hub.handle_error(greenlet, *sys.exc_info())
            del job  # or it would be kept alive while this waits
            if len(self._idle) >= self._kept:
                return
            self._idle.append(greenlet)
