"""Echoes calls from a Redis list with redis-py alone: ``python -m loadtest.bench.peers.brpop_worker PORT``."""

from __future__ import annotations

import sys

import redis

from juggler.process.embedded import HOST
from loadtest.bench.generator.redis_roles import CALLS, RESULTS


def serve(port: int) -> None:
    client = redis.Redis(HOST, port)
    client.ping()
    print("ready", flush=True)
    while True:
        _, payload = client.brpop(CALLS)
        client.lpush(RESULTS + payload.partition(b" ")[0], payload)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
