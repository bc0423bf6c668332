"""CPU time of a call at the callee, by kind of function: ``python -m loadtest.bench.callee [SECONDS [IN_FLIGHT]]``.

The caller is in this process, ``juggler-callee`` in another one. The kinds are measured in turn, in several rounds, so
that noise of the machine affects all of them.
"""

from __future__ import annotations

from juggler.process.patching import patch_all

patch_all()

import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import msgspec  # noqa: E402

from callee import Call, Callee  # noqa: E402
from juggler.broker import PendingCall  # noqa: E402
from juggler.broker.redis import RedisBroker  # noqa: E402
from juggler.errors import BrokerError  # noqa: E402
from loadtest.bench.harness.programs import emit  # noqa: E402
from loadtest.bench.harness.progress import Progress  # noqa: E402
from loadtest.procfs import cpu_seconds  # noqa: E402
from loadtest.stack import Stack  # noqa: E402

SECONDS = 1.0
IN_FLIGHT = 100
ROUNDS = 3


@dataclass
class Item:
    name: str
    price: float
    tags: list[str]


rpc = Callee()


@rpc.register("empty")
def empty(value: Any = None) -> None:
    """Do nothing."""


@rpc.register("typed")
def typed(a: int, b: int, name: str = "") -> None:
    """Validate three arguments."""


@rpc.register("dataclass")
def with_dataclass(item: Item) -> None:
    """Convert an argument."""


@rpc.register("raw", raw=True)
def raw(call: Call) -> msgspec.Raw:
    """Decode nothing."""
    return msgspec.Raw(b"null")


@rpc.register("thread", pool="thread")
def in_thread() -> None:
    """Run in a thread."""


@rpc.register("process", pool="process")
def in_process() -> None:
    """Run in a process."""


KINDS = {
    "empty function": ("empty", b"null"),
    "three annotated arguments": ("typed", b'[1,2,"x"]'),
    "the same by name": ("typed", b'{"a":1,"b":2,"name":"x"}'),
    "a dataclass": ("dataclass", b'[{"name":"tea","price":1.5,"tags":["a","b"]}]'),
    "raw": ("raw", b"null"),
    "in a thread": ("thread", b"null"),
    "in a process (its own time not counted)": ("process", b"null"),
}


class _Caller(PendingCall):
    """Calls again on each result until the load is over."""

    def __init__(self, load: _Load) -> None:
        self.owner = None
        self._load = load
        load.call(self)

    def on_stored(self, error: BrokerError | None) -> None:
        if error is not None and not self._load.over:
            raise error

    def on_result(self, args: bytes, failed: bool | None) -> None:
        if failed:
            raise RuntimeError(args.decode())
        self._load.answered += 1
        self._load.call(self)

    def on_expired(self) -> None:
        raise RuntimeError("a call expired")


class _Load:
    def __init__(self, broker: RedisBroker, uri: str, args: bytes) -> None:
        self.answered = 0
        self.over = False
        self._broker, self._uri, self._args = broker, uri, args

    def call(self, caller: _Caller) -> None:
        if not self.over:
            self._broker.call(self._uri, self._args, 60.0, caller)


def measure(url: str, pids: tuple[int, int], kind: str, in_flight: int, seconds: float) -> tuple[float, list[float]]:
    """Return calls a second, and the CPU time of one in µs for each process."""
    broker = RedisBroker(url)
    load = _Load(broker, *KINDS[kind])
    for _ in range(in_flight):
        _Caller(load)
    gevent.sleep(seconds / 4)
    before, count = [cpu_seconds(pid) for pid in pids], load.answered
    gevent.sleep(seconds)
    done = load.answered - count
    costs = [(cpu_seconds(pid) - then) / max(done, 1) * 1e6 for pid, then in zip(pids, before, strict=True)]
    load.over = True
    broker.close()
    return done / seconds, costs


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else IN_FLIGHT
    found: dict[str, list[tuple[float, list[float]]]] = {kind: [] for kind in KINDS}
    progress = Progress()
    with Stack() as stack, progress.running():
        pids = (stack.start_callee(target="loadtest.bench.callee:rpc").pid, stack.redis.pid)
        for number in range(ROUNDS):
            for kind in KINDS:
                progress.step(f"round {number + 1} of {ROUNDS}: {kind}")
                found[kind].append(measure(stack.redis_url, pids, kind, in_flight, seconds))
    for kind, rounds in found.items():
        rate = median(rate for rate, _ in rounds)
        costs = [median(costs[number] for _, costs in rounds) for number in (0, 1)]
        emit(kind, {"calls/s": rate, "callee µs": costs[0], "Redis µs": costs[1]})


if __name__ == "__main__":
    main()
