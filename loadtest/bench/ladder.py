"""``ladder``: Redis alone, step by step up to a complete call: the distance to the ceiling."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.bench import rpc
from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.load import Load, Sample, Spec
from loadtest.bench.harness.measured_stack import CALLEE, LOAD, MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, row_of

RUNGS = {
    "Redis: LPUSH, BRPOP, both ways": {"json": False, "ttl": False},
    "the same, as JSON": {"json": True, "ttl": False},
    "the same, with TTL keys": {"json": True, "ttl": True},
}
FULL = "juggler: the whole call"


def run(progress: Progress, *, connections: int, seconds: float, payload: int) -> Iterator[Row]:
    """Calls over bare Redis lists, then with JSON, then with keys for their timeouts, then all of juggler.

    The first steps have a caller (load) and a callee, a process each, with a connection for each call in flight.
    juggler shares connections between calls, and so may cost Redis less than the third step does.
    """
    for label, options in RUNGS.items():
        # A new Redis each time: what a step leaves in the lists must not reach the next one.
        with MeasuredStack(server=False, callees=0) as stack:
            progress.step(f"ladder: {label}, {connections:,} concurrently, {seconds:g} s")
            yield row_of(label, "calls", _measure(stack, connections, seconds, payload, options))
    with MeasuredStack(connections=connections) as stack:
        progress.step(f"ladder: {FULL}, {connections:,} concurrently, {seconds:g} s")
        sample = rpc.measure(stack, connections=connections, seconds=seconds, args="x" * payload, generators=1)
        yield row_of(FULL, "calls", sample)


def _measure(stack: MeasuredStack, connections: int, seconds: float, payload: int, options: dict[str, bool]) -> Sample:
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
    "bare Redis, with JSON, with TTL keys, and all of juggler",
    [benchmark.connections(100), benchmark.seconds(3.0), benchmark.payload()],
    run,
)
