"""The callees of the soak: the demo functions, and others that note when they run, which no client can see.

``rpc`` serves what is cancelled and killed, ``flows`` the stream of the slow reader. Notes are lines that are appended
to the file of the environment variable ``SOAK_NOTES``, see `loadtest.soak.notes`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from juggler.callee import Callee, cancelled
from juggler.callee.demo import make

POLL = 0.02


@lru_cache(maxsize=1)
def _file(pid: int) -> int:
    return os.open(os.environ["SOAK_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(*words: object) -> None:
    os.write(_file(os.getpid()), (" ".join(map(str, words)) + "\n").encode())


@contextmanager
def _noted(call: str) -> Iterator[None]:
    try:
        _note("start", call, os.getpid(), time.monotonic())
        yield
    finally:
        _note("end", call, os.getpid(), time.monotonic())


def sleep(call: str, seconds: float) -> str:
    """Wait until the time is over; `Cancelled` interrupts it."""
    with _noted(call):
        time.sleep(seconds)
    return call


def poll(call: str, seconds: float) -> str:
    """Wait until the time is over or the call is cancelled."""
    until = time.monotonic() + seconds
    with _noted(call):
        while time.monotonic() < until and not cancelled():
            time.sleep(POLL)
    return call


def tick(call: str, seconds: float) -> Iterator[int]:
    """Send a part every half second."""
    with _noted(call):
        for number in range(int(seconds * 2)):
            yield number
            time.sleep(0.5)


def flow(call: str, size: int) -> Iterator[list[object]]:
    """Send numbered parts of about ``size`` bytes for ever, and write the number of the last one to a file."""
    path = f"{os.environ['SOAK_NOTES']}.{call}"
    text = "x" * size
    number = 0
    while True:
        number += 1
        with open(path, "w") as file:
            file.write(f"{number:12}")
        yield [number, text]


rpc = make()
rpc.register("soak.sleep", sleep, cancel="raise")
rpc.register("soak.poll.thread", poll, pool="thread")
rpc.register("soak.sleep.process", sleep, pool="process", cancel="raise")
rpc.register("soak.wait", sleep, cancel="raise")
rpc.register("soak.tick", tick)

flows = Callee()
flows.register("soak.flow", flow)
