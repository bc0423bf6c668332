"""A traced program: a client, a server and a callee in one process, and pools in others. Prints its spans.

``python -m tests.integration.tracing_stack REDIS_URL DIRECTORY`` writes the spans of pool processes to the directory.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import asyncio  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from contextlib import suppress  # noqa: E402

import gevent  # noqa: E402
from opentelemetry import trace as otel  # noqa: E402

from juggler.broker.redis import RedisBroker  # noqa: E402
from juggler.callee import Callee, publish, trace  # noqa: E402
from tests.integration.spans import note_spans  # noqa: E402

note_spans()
tracer = otel.get_tracer("application")

rpc = Callee()


def work():
    with tracer.start_as_current_span("work"):
        publish("news", 1)
    return trace()


def fail():
    raise ValueError("no")


def parts():
    yield 1
    with tracer.start_as_current_span("work"):
        yield 2


for pool in (None, "thread", "process"):
    rpc.register(f"work.{pool}", work, pool=pool)
rpc.register("fail", fail)
rpc.register("parts", parts)
rpc.register("sleep", lambda: gevent.sleep(30), cancel="raise")


def main(url: str) -> None:
    from juggler.callee.worker import Worker
    from juggler.client import AsyncClient, Client
    from juggler.errors import CallFailed, Expired
    from tests.stack import running_server

    ours, theirs = RedisBroker(url), RedisBroker(url, blocking_timeout=0.1)
    worker = Worker(rpc, theirs, source="tests.integration.tracing_stack:rpc", grace=0.1)
    greenlet = gevent.spawn(worker.run)
    with running_server(ours) as server, Client(server.url) as client, client.subscribe("news") as news:
        for pool in (None, "thread", "process"):
            with tracer.start_as_current_span(f"root {pool}"):
                print(
                    json.dumps({"pool": str(pool), "caller": client.call(f"work.{pool}"), "event": news.get(5).trace})
                )
        with tracer.start_as_current_span("root publish"):
            client.publish("news", 2)
        print(json.dumps({"pool": "publish", "event": news.get(5).trace}))
        with suppress(CallFailed):
            client.call("fail")
        with suppress(Expired):
            client.call("sleep", timeout=0.05)
        with client.stream("parts") as stream:
            list(stream)
        with Client(server.url) as other:
            other.start_call("sleep")
            gevent.sleep(0.1)

        async def asynchronous() -> None:
            async with AsyncClient(server.url) as client:
                with tracer.start_as_current_span("root async"):
                    await client.call("work.None")

        gevent.get_hub().threadpool.apply(lambda: asyncio.run(asynchronous()))
    worker.stop()
    greenlet.join(10)
    theirs.close()


if __name__ == "__main__":
    main(sys.argv[1])
