"""Replies of Redis, and what its error replies mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import hiredis
import redis

from juggler.errors import BrokerError, BrokerUnavailable
from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

Reply: TypeAlias = Any
"""A reply as hiredis parses it. An error is a `hiredis.ReplyError`; a lost connection is a `BrokerUnavailable`."""

OnReply: TypeAlias = Callable[[Reply], None]
OnReplies: TypeAlias = Callable[[list[Reply]], None]

LOG_PERIOD = 1.0
"""Seconds between two log lines about refusals of the same kind."""

REFUSALS = (redis.AuthenticationError, redis.exceptions.AuthorizationError, redis.exceptions.NoPermissionError)
"""redis-py's errors for credentials and permissions, which a retry does not cure."""

OTHER_NODE = (redis.exceptions.AskError, redis.exceptions.ClusterDownError, redis.exceptions.TryAgainError)
"""redis-py's errors of a cluster's node that does not execute a command; ``MOVED`` is an ``AskError``."""

_NOT_MASTER = ("READONLY ", "LOADING ", "MASTERDOWN ", "UNBLOCKED ")
_UNSETTLED = ("ASK ", "CLUSTERDOWN ", "MOVED ", "TRYAGAIN ")
_TEMPORARY = (*_UNSETTLED, *_NOT_MASTER, "BUSY ", "MISCONF ", "NOREPLICAS ", "OOM ")


def is_not_master(reply: Reply) -> bool:
    """Return whether the server is no longer, or not yet, the master; a new connection may lead to the master."""
    return _is_error(reply, *_NOT_MASTER)


def is_unsettled(reply: Reply) -> bool:
    """Return whether a cluster is being reconfigured; its node has executed nothing."""
    return _is_error(reply, *_UNSETTLED)


def is_temporary(reply: Reply) -> bool:
    """Return whether the server refuses a command for now; the same command may succeed later."""
    return _is_error(reply, *_TEMPORARY)


def lacks_replicas(reply: Reply) -> bool:
    """Return whether the server takes no writes because too few replicas follow it: another one may be the master."""
    return _is_error(reply, "NOREPLICAS ")


def is_forbidden(reply: Reply) -> TypeGuard[hiredis.ReplyError]:
    """Return whether the user lacks a permission."""
    return _is_error(reply, "NOPERM ")


def is_no_list(reply: Reply) -> TypeGuard[hiredis.ReplyError]:
    """Return whether the key holds a value of another type."""
    return _is_error(reply, "WRONGTYPE ")


def is_unknown_script(reply: Reply) -> bool:
    """Return whether the server does not know the hash of a script."""
    return _is_error(reply, "NOSCRIPT ")


def _is_error(reply: Reply, *codes: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(codes)


def as_error(reply: Reply) -> BrokerError:
    """Convert an error reply to a `BrokerError`, and log it: its text is for operators, not for clients."""
    if isinstance(reply, BrokerError):
        return reply
    if not is_unsettled(reply):
        _log_refusal(reply)
    kind = BrokerUnavailable if is_temporary(reply) else BrokerError
    return kind("Redis refused the request", detail=str(reply))


_logged: dict[str, float] = {}
"""When each kind of refusal was logged last, by its first word."""


def _log_refusal(reply: hiredis.ReplyError) -> None:
    kind = str(reply).partition(" ")[0]
    now = time.monotonic()
    if now - _logged.get(kind, -LOG_PERIOD) >= LOG_PERIOD:
        _logged[kind] = now
        log.warning(Line("redis: request refused", error=reply))


def ignore_all(replies: list[Reply]) -> None:
    """Discard replies, see `ignore`."""
    for reply in replies:
        ignore(reply)


def ignore(reply: Reply) -> None:
    """Discard a reply. An error is logged, unless a cluster is being reconfigured."""
    if isinstance(reply, hiredis.ReplyError) and not is_unsettled(reply):
        log.warning(Line("redis: command failed", error=reply))
