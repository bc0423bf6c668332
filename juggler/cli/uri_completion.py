"""Completion of URIs in shells: the functions that a server lists, or that callees announce in Redis.

It never disturbs the line that is being typed: it is silent and bounded by `TIMEOUT`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

TIMEOUT = 2.0
"""Maximum seconds to ask a server, and maximum seconds to ask Redis."""

CATALOGUE_URI = "juggler.uris"
"""Where a server lists the functions, with ``--list-uri juggler.uris``."""

Functions = dict[str, str]
"""Signatures by URI."""


def complete_call(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a URI from the server of the command line, or else from the Redis of ``REDIS_URL``."""
    url, headers, token = (ctx.params.get(name) for name in ("url", "headers", "token"))
    headers = dict(headers or {})
    if token:
        headers.setdefault("Authorization", f"Bearer {token}")
    found = _of_server(url or "", headers)
    redis_url = os.environ.get("REDIS_URL")
    if not found and redis_url:
        found = _of_redis(redis_url, os.environ.get("JUGGLER_REDIS_KEY_PREFIX", ""))
    return _items(found, incomplete)


def complete_uris(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a URI from the Redis of the command line."""
    url, key_prefix = ctx.params.get("url"), ctx.params.get("key_prefix")
    return _items(_of_redis(url or "redis://127.0.0.1:6379", key_prefix or ""), incomplete)


def _items(found: Functions, incomplete: str) -> list[CompletionItem]:
    # Shells split at spaces, and click's protocol has one value a line.
    return [
        CompletionItem(uri, help=signature if signature.isprintable() else "")
        for uri, signature in sorted(found.items())
        if uri.startswith(incomplete) and uri.isprintable() and " " not in uri
    ]


def _of_server(url: str, headers: dict[str, str]) -> Functions:
    from juggler.client import Client

    def ask() -> Functions:
        with Client(url, timeout=TIMEOUT, headers=headers, reconnect=False) as client:
            listed = client.call(CATALOGUE_URI, timeout=TIMEOUT)
        return {str(each["uri"]): str(each.get("signature", "")) for each in listed}

    return _within_timeout(ask)


def _of_redis(url: str, key_prefix: str) -> Functions:
    try:
        # Not with a broker, which needs monkey-patching and takes three times as long to import.
        import redis
    except ModuleNotFoundError:
        return {}
    from juggler.broker.redis.keys import Names

    def ask() -> Functions:
        with redis.Redis.from_url(url, protocol=2, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as client:
            return {uri.decode(): "" for uri in client.smembers(Names(key_prefix).uris)}

    return _within_timeout(ask)


def _within_timeout(ask: Callable[[], Functions]) -> Functions:
    """Return what a function returns, or nothing if it raises or takes longer. Imports do not count."""
    found: Functions = {}

    def run() -> None:
        with suppress(Exception):  # no error may appear on the line that is being typed
            found.update(ask())

    # In a thread: resolving a name cannot be interrupted.
    thread = threading.Thread(target=run, name="juggler-completion", daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return dict(found)
