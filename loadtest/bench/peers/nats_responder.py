"""Echoes requests on a subject of NATS with nats-py: ``python -m loadtest.bench.peers.nats_responder URL SUBJECT``."""

from __future__ import annotations

import asyncio
import sys

import nats
from nats.aio.msg import Msg


async def echo(message: Msg) -> None:
    await message.respond(message.data)


async def serve(url: str, subject: str) -> None:
    connection = await nats.connect(url)
    await connection.subscribe(subject, cb=echo)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
