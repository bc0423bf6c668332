"""Spread the calls to a hot URI over several URIs, each with a queue of its own, invisible to clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from juggler.errors import ConfigError, NackCode, Refused
from juggler.protocol.messages import Ack, Call, Message, Nack, Res
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

Choose: TypeAlias = "Callable[[Connection, Call], int]"


def rewrite(hot: Mapping[str, int], choose: Choose | None = None) -> Middleware:
    """Return a middleware that spreads calls to ``uri`` over ``uri.0`` to ``uri.n-1``.

    In a Redis Cluster, different nodes have their queues. Responses have the URI that the client called. Calls to
    ``uri.0`` and so on are refused with NACK 404. Put it last, because inner handlers see the rewritten URIs.

    Args:
        hot: number of URIs to spread over, by URI.
        choose: returns an integer for a call; calls with the same integer use the same URI. None: in turn.

    Raises:
        ConfigError: a number is below 1.
    """
    if any(number < 1 for number in hot.values()):
        raise ConfigError(f"rewrite: expected numbers of at least 1, got {dict(hot)!r}")
    names = {uri: [f"{uri}.{number}" for number in range(many)] for uri, many in hot.items()}
    original = {name: uri for uri, spread in names.items() for name in spread}
    turns = {uri: count() for uri in names}

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if isinstance(message, Call):
                spread = names.get(message.uri)
                if spread is not None:
                    number = next(turns[message.uri]) if choose is None else choose(connection, message)
                    message = replace(message, uri=spread[number % len(spread)])
                elif message.uri in original:
                    raise Refused(NackCode.NOT_FOUND, f"call {original[message.uri]!r} instead of {message.uri!r}")
            elif isinstance(message, (Ack, Nack, Res)) and message.uri in original:
                message = replace(message, uri=original[message.uri])
            next_handler(ctx, connection, message)

        return handler

    return middleware
