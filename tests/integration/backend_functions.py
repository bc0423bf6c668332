"""Functions that the tests of backends call, in a callee process; see `test_backend.py`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from juggler.callee import Callee, Caller, CallError, cancelled

rpc = Callee()
NOTES = Path(os.environ.get("JUGGLER_TEST_NOTES", "/dev/null"))


def note(text: str) -> None:
    with NOTES.open("a") as file:
        file.write(f"{text}\n")


@rpc.register("echo", whole=True)
def echo(value):
    return value


@rpc.register("who")
def who(caller: Caller):
    return caller.identity


@rpc.register("size")
def size(n: int):
    return "x" * n


@rpc.register("fail")
def fail():
    raise CallError("no tea", code=418, data={"left": 0})


@rpc.register("wait")
def wait(seconds: float = 30.0):
    until = time.monotonic() + seconds
    while not cancelled() and time.monotonic() < until:
        time.sleep(0.01)
    note("cancelled" if cancelled() else "waited")
    return "done"


@rpc.register("pid")
def pid():
    return os.getpid()


@rpc.register("die")
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@rpc.register("numbers")
def numbers(n: int):
    yield from range(n)
    return {"n": n}


@rpc.register("failing")
def failing(n: int):
    yield from range(n)
    raise CallError("no more")


@rpc.register("endless")
def endless():
    n = 0
    try:
        while True:
            n += 1
            yield n
    finally:
        note(f"closed after {n}")


@rpc.register("silent")
def silent():
    yield os.getpid()
    time.sleep(60)
