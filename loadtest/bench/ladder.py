"""``ladder``: what Redis alone can do, rung by rung up to a full call: how far we are from the ceiling."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.bench import benchmark, rpc
from loadtest.bench.benchmark import Benchmark
from loadtest.bench.load import Load, Sample, Spec
from loadtest.bench.progress import Progress
from loadtest.bench.report import Row, row_of
from loadtest.bench.stack import CALLEE, LOAD, Stack

RUNGS = {
    "Redis: LPUSH, BRPOP, both ways": {"json": False, "ttl": False},
    "the same, as JSON": {"json": True, "ttl": False},
    "the same, with TTL keys": {"json": True, "ttl": True},
}
FULL = "juggler: the whole call"


def run(progress: Progress, *, connections: int, seconds: float, payload: int) -> Iterator[Row]:
    """Calls over Redis's lists alone, then with JSON, then with keys for their time, then all of juggler.

    The first rungs have a caller (load) and a callee, a process each, on bare sockets with a connection for each call
    in flight. juggler shares connections between calls, and so may cost Redis less than the third rung does.
    """
    for label, options in RUNGS.items():
        # A Redis each: what a rung leaves in the lists means nothing to the next.
        with Stack(server=False, callees=0) as stack:
            progress.step(f"ladder: {label}, {connections:,} at a time, {seconds:g} s")
            yield row_of(label, "calls", _measure(stack, connections, seconds, payload, options))
    with Stack(server_options=rpc.options_of(connections)) as stack:
        progress.step(f"ladder: {FULL}, {connections:,} at a time, {seconds:g} s")
        sample = rpc.measure(stack, connections=connections, seconds=seconds, args="x" * payload, generators=1)
        yield row_of(FULL, "calls", sample)


def _measure(stack: Stack, connections: int, seconds: float, payload: int, options: dict[str, bool]) -> Sample:
    common: Spec = {
        "connections": connections,
        "redis_port": stack.redis_port,
        "payload_bytes": payload,
        **options,
    }
    specs = [{"role": "redis-callee", **common}, {"role": "redis-call", **common}]
    with Load(stack, specs, roles={"redis-callee": CALLEE, "redis-call": LOAD}) as load:
        return load.measure(seconds)["redis-call"]


BENCHMARK = Benchmark(
    "ladder",
    "bare Redis, with JSON, with TTL keys, and the whole: how far the ceiling is",
    [benchmark.connections(100), benchmark.seconds(3.0), benchmark.payload()],
    run,
)
