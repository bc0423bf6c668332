"""Allow or refuse each CALL by its URI, and each PUB and SUB by its channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from juggler.errors import ConfigError, NackCode, Refused
from juggler.protocol.glob import matches
from juggler.protocol.messages import Call, Evnt, Message, Pub, Sub
from juggler.server.processing import Context, Handler, Middleware

if TYPE_CHECKING:
    from juggler.server.connection import Connection

Check: TypeAlias = "Callable[[Connection, str], bool]"
"""``check(connection, name)``: return whether the connection may use the URI or channel ``name``. It may block."""

KINDS = ("call", "pub", "sub")


@dataclass(frozen=True)
class Rule:
    """A rule for the URIs or channels that match a pattern.

    Attributes:
        kind: ``"call"``, ``"pub"`` or ``"sub"``.
        pattern: Redis glob, of URIs for ``"call"``, otherwise of channels.
        allow: True, False, or a function that decides. Default: True.

    Raises:
        ConfigError: the kind is unknown.
    """

    kind: str
    pattern: str
    allow: bool | Check = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind of a rule: expected one of {', '.join(KINDS)}, got {self.kind!r}")


def authorize(rules: Iterable[Rule], default: bool | Iterable[str] = False) -> Middleware:
    """Return a middleware that refuses requests with NACK 403 unless the rules allow them.

    The first rule of the request's kind whose pattern matches decides. UNSB is always allowed.

    A SUB with a pattern may match any channel. Its pattern is checked as if it were a channel. Each event of the
    subscription is then checked by its channel, and dropped if the connection may not subscribe to that channel.

    Args:
        rules: rules in the order in which they are tried.
        default: whether requests without a matching rule are allowed: True, False, or the kinds that are allowed.
            Default: False.

    Raises:
        ConfigError: the default names an unknown kind.
    """
    rules = list(rules)
    by_kind = {kind: [rule for rule in rules if rule.kind == kind] for kind in KINDS}
    open_kinds = frozenset(KINDS if default is True else () if default is False else default)
    if not open_kinds <= set(KINDS):
        raise ConfigError(f"default: expected True, False or some of {', '.join(KINDS)}, got {default!r}")

    def may(kind: str, connection: Connection, name: str) -> bool:
        for rule in by_kind[kind]:
            if matches(rule.pattern, name):
                return rule.allow if isinstance(rule.allow, bool) else bool(rule.allow(connection, name))
        return kind in open_kinds

    def check(kind: str, connection: Connection, name: str) -> None:
        if not may(kind, connection, name):
            raise Refused(NackCode.FORBIDDEN, f"{kind} of {name!r} is not allowed")

    def middleware(next_handler: Handler) -> Handler:
        def handler(ctx: Context, connection: Connection, message: Message) -> None:
            if isinstance(message, Call):
                check("call", connection, message.uri)
            elif isinstance(message, Pub):
                check("pub", connection, message.channel)
            elif isinstance(message, Sub):
                check("sub", connection, message.channel)
            elif isinstance(message, Evnt) and message.pattern and not may("sub", connection, message.channel):
                return
            next_handler(ctx, connection, message)

        return handler

    return middleware
