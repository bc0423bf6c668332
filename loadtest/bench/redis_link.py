"""The broker without websockets, compared with redis-py's pool: ``python -m loadtest.bench.redis_link [SECONDS]``.

The caller is in this process, the callee in another one. redis-py is used as usual: each greenlet takes a connection
from the pool, and waits on it for its result.
"""

from __future__ import annotations

from juggler.process.patching import patch_all

patch_all()

import itertools  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import ExitStack, contextmanager, suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TypeAlias  # noqa: E402

import gevent  # noqa: E402
import gevent.event  # noqa: E402
import redis  # noqa: E402
import trustme  # noqa: E402

from juggler.broker import Event, PendingCall, Subscriber  # noqa: E402
from juggler.broker.redis import RedisBroker  # noqa: E402
from juggler.errors import BrokerError, ConfigError  # noqa: E402
from juggler.process.embedded import HOST, EmbeddedRedis, free_port  # noqa: E402
from juggler.process.uuids import new_uuid  # noqa: E402
from loadtest.bench.harness.programs import emit  # noqa: E402
from loadtest.children import Children  # noqa: E402
from loadtest.procfs import cpu_seconds  # noqa: E402
from loadtest.stack import START_TIMEOUT  # noqa: E402

SECONDS = 2.0
ARGS = b'"' + b"x" * 100 + b'"'
URI = "bench.echo"
PUBLISHERS = 200
IN_FLIGHT = (1, 20, 200, 2000)
MAX_POOL_CONNECTIONS = 200
"""Calls in flight with redis-py, each of which has a connection of its own."""
CHANNELS = 20_000
SUBSCRIBERS = 500

Running: TypeAlias = Callable[[], int]
"""Returns the number of operations so far."""


class Bench:
    """Measures operations and the CPU time of caller (this process), callee and Redis."""

    def __init__(self, redis_pid: int, seconds: float) -> None:
        self.callee_pid = 0
        self._redis_pid = redis_pid
        self._seconds = seconds

    def measure(self, label: str, done: Running) -> None:
        """Print the cost of one of the operations that run in the background; ``done`` counts them."""
        gevent.sleep(self._seconds / 4)
        before, count, started = self._cpu(), done(), time.perf_counter()
        gevent.sleep(self._seconds)
        self.show(label, done() - count, time.perf_counter() - started, before)

    def measure_once(self, label: str, count: int, run: Callable[[], object]) -> None:
        """Print the cost of one of the ``count`` operations of ``run``."""
        before, started = self._cpu(), time.perf_counter()
        run()
        self.show(label, count, time.perf_counter() - started, before)

    def show(self, label: str, count: int, elapsed: float, before: list[float]) -> None:
        costs = [(now - then) / max(count, 1) * 1e6 for now, then in zip(self._cpu(), before, strict=True)]
        names = ("done/s", "caller µs", "callee µs", "Redis µs")
        emit(label, dict(zip(names, [count / elapsed, *costs], strict=True)))

    def _cpu(self) -> list[float]:
        used = [time.process_time(), 0.0, cpu_seconds(self._redis_pid)]
        if self.callee_pid:
            used[1] = cpu_seconds(self.callee_pid)
        return used


@contextmanager
def greenlets(function: Callable[[], None], count: int) -> Iterator[None]:
    """Call a function repeatedly in several greenlets."""

    def loop() -> None:
        while True:
            function()

    spawned = [gevent.spawn(loop) for _ in range(count)]
    try:
        yield
    finally:
        gevent.killall(spawned)


def counted(function: Callable[[], object]) -> tuple[Callable[[], None], Running]:
    """Return a function that counts its calls, and a function that returns the count."""
    count = 0

    def run() -> None:
        nonlocal count
        function()
        count += 1

    return run, lambda: count


# juggler


class Caller(PendingCall):
    """Calls again on each result until the broker is closed."""

    __slots__ = ("_answered", "_broker")

    def __init__(self, broker: RedisBroker, answered: Callable[[], None]) -> None:
        self.owner = None
        self._broker = broker
        self._answered = answered
        self.call()

    def call(self) -> None:
        self._broker.call(URI, ARGS, 60.0, self)

    def on_stored(self, error: BrokerError | None) -> None:
        pass

    def on_result(self, args: bytes, failed: bool | None) -> None:
        self._answered()
        self.call()

    def on_expired(self) -> None:
        raise RuntimeError("a call expired")


class Listener(Subscriber):
    """Counts events."""

    def __init__(self) -> None:
        self.count = 0

    def on_event(self, event: Event) -> None:
        self.count += 1


def measure_juggler(bench: Bench, url: str) -> None:
    broker = RedisBroker(url)
    broker.connect()
    publish, published = counted(lambda: publish_to(broker, "bench"))
    with greenlets(publish, PUBLISHERS):
        bench.measure(f"juggler: PUBLISH, {PUBLISHERS} greenlets", published)
    juggler_subscriptions(bench, broker)
    broker.close()
    for in_flight in IN_FLIGHT:
        juggler_rpc(bench, url, in_flight, "juggler: RPC")


def juggler_rpc(bench: Bench, url: str, in_flight: int, label: str) -> None:
    broker = RedisBroker(url)
    with callee_process(bench, "juggler", url):
        answer, answered = counted(lambda: None)
        for _ in range(in_flight):
            Caller(broker, answer)
        bench.measure(f"{label}, {in_flight:,} in flight", answered)
        broker.close()


def juggler_subscriptions(bench: Bench, broker: RedisBroker) -> None:
    listener, done = Listener(), gevent.event.Event()

    def subscribe() -> None:
        for number in range(CHANNELS):
            broker.subscribe(f"bench.{number}", False, listener, lambda error: None)
        broker.subscribe("bench.last", False, listener, lambda error: done.set())
        done.wait()

    bench.measure_once(f"juggler: subscribe, {CHANNELS:,} channels", CHANNELS, subscribe)
    listeners = [Listener() for _ in range(SUBSCRIBERS)]
    for each in listeners:
        broker.subscribe("bench.0", False, each, lambda error: None)
    with greenlets(lambda: publish_to(broker, "bench.0"), 5):
        bench.measure(f"juggler: event to one of {SUBSCRIBERS} subscribers", lambda: sum(x.count for x in listeners))


def publish_to(broker: RedisBroker, channel: str) -> None:
    """Publish an event, and wait until Redis has confirmed it."""
    done: gevent.event.AsyncResult = gevent.event.AsyncResult()
    broker.publish(channel, new_uuid(), ARGS, done.set)
    done.get()


def juggler_callee(url: str) -> None:
    broker = RedisBroker(url)
    consumer = broker.calls([URI])
    print("ready", flush=True)
    while True:
        for call in consumer.pop(1000):
            broker.result(call, call.args, lambda error: None)


# redis-py


def pool(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2, max_connections=10_000)


def measure_redis_py(bench: Bench, url: str) -> None:
    client = pool(url)
    publish, published = counted(lambda: client.publish("bench", ARGS))
    with greenlets(publish, PUBLISHERS):
        bench.measure(f"redis-py: PUBLISH, {PUBLISHERS} greenlets", published)
    redis_py_subscriptions(bench, client)
    for in_flight in IN_FLIGHT:
        if in_flight <= MAX_POOL_CONNECTIONS:
            redis_py_rpc(bench, url, in_flight)


def redis_py_rpc(bench: Bench, url: str, in_flight: int) -> None:
    client, numbers = pool(url), itertools.count()

    def call() -> None:
        number = next(numbers)
        with client.pipeline(transaction=False) as pipeline:
            pipeline.set(f"timeout:{number}", 60_000, px=60_000).lpush("calls", b"%d" % number + ARGS).execute()
        assert client.brpop([f"results:{number}"], timeout=60)

    with callee_process(bench, "redis-py", url):
        run, answered = counted(call)
        with greenlets(run, in_flight):
            bench.measure(f"redis-py: RPC, {in_flight:,} in flight", answered)
    client.flushdb()
    client.close()


def redis_py_subscriptions(bench: Bench, client: redis.Redis) -> None:
    with client.pubsub() as one:

        def subscribe() -> None:
            for number in range(CHANNELS):
                one.subscribe(f"bench.{number}")
            for _ in range(CHANNELS):
                assert one.get_message(timeout=5)

        bench.measure_once(f"redis-py: subscribe, {CHANNELS:,} channels", CHANNELS, subscribe)
    with ExitStack() as stack:
        listeners = [stack.enter_context(client.pubsub(ignore_subscribe_messages=True)) for _ in range(SUBSCRIBERS)]
        counts = [0] * SUBSCRIBERS

        def listen(number: int) -> None:
            for _ in listeners[number].listen():
                counts[number] += 1

        for each in listeners:
            each.subscribe("bench.0")
        spawned = [gevent.spawn(listen, number) for number in range(SUBSCRIBERS)]
        with greenlets(lambda: client.publish("bench.0", ARGS), 5):
            bench.measure(f"redis-py: event to one of {SUBSCRIBERS} subscribers", lambda: sum(counts))
        gevent.killall(spawned)


def redis_py_callee(url: str) -> None:
    client = pool(url)

    def serve() -> None:
        _, payload = client.brpop(["calls"])
        number = payload.partition(b'"')[0].decode()
        with client.pipeline(transaction=False) as pipeline:
            pipeline.pttl(f"timeout:{number}").delete(f"timeout:{number}")
            assert pipeline.execute()[0] > 0
            pipeline.lpush(f"results:{number}", payload).expire(f"results:{number}", 60).execute()

    print("ready", flush=True)
    with greenlets(serve, MAX_POOL_CONNECTIONS):
        gevent.wait()


# Processes


@contextmanager
def callee_process(bench: Bench, kind: str, url: str) -> Iterator[None]:
    with Children() as children:
        callee = children.start("callee", ["-m", "loadtest.bench.redis_link", "--serve", kind, url])
        callee.hear_match("ready", START_TIMEOUT)
        bench.callee_pid = callee.pid
        yield
        bench.callee_pid = 0


@contextmanager
def redis_on_tcp(*options: str) -> Iterator[tuple[EmbeddedRedis, str]]:
    """Yield a Redis and its TCP URL: what is measured uses TCP, as in production."""
    port = free_port()
    with EmbeddedRedis(options=("--port", str(port), "--bind", HOST, *options)) as server:
        yield server, f"redis://{HOST}:{port}"


def tls(seconds: float) -> None:
    """Measure over TLS if a server on PATH supports it."""
    authority = trustme.CA()
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        ca, own = Path(directory, "ca.pem"), Path(directory, "own.pem")
        authority.cert_pem.write_to_path(ca)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
        port = free_port()
        files = ("--tls-cert-file", str(own), "--tls-key-file", str(own), "--tls-ca-cert-file", str(ca))
        options = ("--tls-port", str(port), "--tls-auth-clients", "no", *files)
        with suppress(ConfigError):
            server = stack.enter_context(EmbeddedRedis(binary, options=options))
            juggler_rpc(
                Bench(server.pid, seconds), f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca}", 200, "juggler: RPC, TLS"
            )
            return
        print("juggler: RPC, TLS: not measured: no redis-server with TLS on PATH")


def cluster(seconds: float) -> None:
    """Measure the code for clusters on one node with all slots: its cost, not how a cluster scales."""
    with redis_on_tcp("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as (server, url):
        with redis.Redis.from_url(server.url, protocol=2) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                gevent.sleep(0.01)
        url = url.replace("redis://", "redis+cluster://")
        juggler_rpc(Bench(server.pid, seconds), url, 200, "juggler: RPC, cluster")


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        {"juggler": juggler_callee, "redis-py": redis_py_callee}[sys.argv[2]](sys.argv[3])
        return
    seconds = float(sys.argv[1]) if sys.argv[1:] else SECONDS
    with redis_on_tcp() as (server, url):
        bench = Bench(server.pid, seconds)
        measure_juggler(bench, url)
        measure_redis_py(bench, url)
    tls(seconds)
    cluster(seconds)


if __name__ == "__main__":
    main()
