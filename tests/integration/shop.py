"""An application for load tests: the functions and the server of a shop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from juggler.auth import Identity, bearer
from juggler.backend import Backend
from juggler.broker.redis import RedisBroker
from juggler.callee import Callee, CallError
from juggler.server import Server

LIFE = 1.0
"""Seconds for which a token is valid."""

REDIS = os.environ["REDIS_URL"]

rpc = Callee()
backend = Backend(REDIS)
broker = RedisBroker(REDIS)
server = Server(
    caller_broker=broker,
    pubsub_broker=broker,
    connect=bearer(lambda token: Identity(token, time.time() + LIFE), optional=True),
    max_calls=1000,
)


class SoldOut(CallError):
    """There is no more."""


@rpc.register("shop.price")
def price(article: str) -> float:
    return 1.5 * len(article)


@rpc.register("shop.buy")
def buy(article: str) -> str:
    if article != "tea":
        raise SoldOut(f"no more {article}")
    backend.publish("orders", article)
    return article


@rpc.register("shop.describe")
def describe(article: str) -> Iterator[str]:
    for number in range(10):
        yield f"{article} {number}"


@rpc.register("shop.wait")
def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@rpc.register("shop.broken")
def broken(article: str) -> str:
    raise ValueError(article)
