"""Commands to server processes, such as to disconnect a user, and what servers answer. PURE.

A command is a JSON object in the control list of each server: ``{"do": …, "reply": uuid, …arguments}``. Each server
pushes one answer onto the list that ``reply`` names: ``{"server": id, "count": n, …}``. Unknown members are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal, TypeAlias

import msgspec

from juggler.errors import CloseCode, InvalidMessage, InvalidValue, NackCode
from juggler.protocol.identity import MAX_SIZE, encode_identity

MAX_REASON = 123
"""Maximum size of a reason, in bytes of UTF-8: that of a close frame."""

MAX_NAME = 8192
"""Maximum length of a channel or pattern, in characters."""

MAX_LISTED = 1000
"""Maximum number of connections that a server lists in an answer."""

MAX_ANSWER = 1024 * 1024
"""Maximum size of the connections that a server lists in an answer, in bytes of JSON."""

LISTED = 100
"""Default number of connections to list."""

UNSUBSCRIBED = "unsubscribed by the server"
"""Default reason of an ENDS."""

TIMEOUT = 2.0
"""Default number of seconds to wait for the answers of servers."""

_is_uuid = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII).fullmatch

Do: TypeAlias = Literal["disconnect", "unsubscribe", "connections"]

_NO_IDENTITY = msgspec.Raw(b"")  # one object: fields that are their default are not encoded


class ServerCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command to servers about their connections: those of an identity, the one with an identifier, or all.

    Attributes:
        do: what to do.
        reply: UUID that names the list for answers; empty for no answer.
        identity: caller identity of the connections, as JSON text.
        connection: identifier of the connection.
        channel: channel or pattern to unsubscribe from.
        pattern: whether it is a pattern.
        code: close code, or code of the ENDS.
        reason: text for people, in the close frame or the ENDS.
        limit: maximum number of connections to list.
    """

    do: Do
    reply: str = ""
    identity: msgspec.Raw = _NO_IDENTITY
    connection: str = ""
    channel: str = ""
    pattern: bool = False
    code: int = 0
    reason: str = ""
    limit: int = LISTED


class ConnectionInfo(msgspec.Struct, frozen=True):
    """A connection of a server.

    Attributes:
        id: its identifier, which clients know from the WLCM.
        identity: its caller identity; ``None`` without one.
        address: address of the client; empty for a UNIX socket.
        since: when it connected, in seconds since 1970.
        subprotocol: the negotiated subprotocol; empty without one.
        calls: calls in flight.
        subscriptions: subscriptions.
    """

    id: str
    identity: Any = None
    address: str = ""
    since: float = 0.0
    subprotocol: str = ""
    calls: int = 0
    subscriptions: int = 0


class ServerAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one server answers to a command.

    Attributes:
        server: identifier of the server.
        count: connections that were closed, unsubscribed or found.
        connections: those that are listed.
        error: why the server has not executed the command; empty if it has.
    """

    server: str
    count: int = 0
    connections: list[ConnectionInfo] = []
    error: str = ""


class CommandOutcome(msgspec.Struct, frozen=True):
    """What a command has achieved on all servers.

    Attributes:
        servers: servers that were asked: all that live.
        answered: servers that have executed the command and answered in time. The others may execute it or not.
        connections: connections that were closed, unsubscribed or found, on those that have answered.
        listed: the first of them, in the order of their age; only of the command "connections".
        errors: what servers have reported instead.
    """

    servers: int = 0
    answered: int = 0
    connections: int = 0
    listed: list[ConnectionInfo] = []
    errors: list[str] = []


# Making a command


def disconnect_command(
    *,
    identity: Any = None,
    connection: str | None = None,
    code: int = CloseCode.DISCONNECTED,
    reason: str = "",
    reply: str = "",
) -> ServerCommand:
    """Return the command to close connections.

    Args:
        identity: close all connections with this caller identity, any JSON value but null.
        connection: or the one with this identifier.
        code: close code, 4000 to 4999; see `juggler.errors.CloseCode`.
        reason: text for people, at most 123 bytes.
        reply: see `ServerCommand`.

    Raises:
        InvalidValue: an argument is invalid, or not exactly one of ``identity`` and ``connection`` is given.
    """
    return _checked(ServerCommand("disconnect", reply, _raw(identity), _or_empty(connection), code=code, reason=reason))


def unsubscribe_command(
    *,
    channel: str | None = None,
    pattern: str | None = None,
    identity: Any = None,
    connection: str | None = None,
    code: int = NackCode.FORBIDDEN,
    reason: str = UNSUBSCRIBED,
    reply: str = "",
) -> ServerCommand:
    """Return the command to end subscriptions.

    Args:
        channel: the channel.
        pattern: or the pattern, as clients have subscribed to it.
        identity: end the subscriptions of all connections with this caller identity, any JSON value but null.
        connection: or of the one with this identifier.
        code: code of the ENDS, 400 to 599.
        reason: message of the ENDS, at most 123 bytes.
        reply: see `ServerCommand`.

    Raises:
        InvalidValue: an argument is invalid, or not exactly one of each pair is given.
    """
    if (channel is None) == (pattern is None):
        raise InvalidValue("expected either channel or pattern")
    name = _or_empty(channel if pattern is None else pattern)
    return _checked(
        ServerCommand(
            "unsubscribe", reply, _raw(identity), _or_empty(connection), name, pattern is not None, code, reason
        )
    )


def connections_command(
    *, identity: Any = None, connection: str | None = None, limit: int = LISTED, reply: str = ""
) -> ServerCommand:
    """Return the command to list connections.

    Args:
        identity: only those with this caller identity, any JSON value but null.
        connection: or only the one with this identifier.
        limit: maximum number of connections to list, of 0 to 1,000.
        reply: see `ServerCommand`.

    Raises:
        InvalidValue: an argument is invalid, or both ``identity`` and ``connection`` are given.
    """
    return _checked(ServerCommand("connections", reply, _raw(identity), _or_empty(connection), limit=limit))


def _raw(identity: Any) -> msgspec.Raw:
    if identity is None:
        return _NO_IDENTITY
    try:
        text = encode_identity(identity)
        _any_decoder.decode(text)
    except InvalidValue as error:
        raise InvalidValue(f"identity: {error}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        # Lone surrogates, for example.
        raise InvalidValue(f"identity: not supported in commands: {error}") from None
    return msgspec.Raw(text)


def _or_empty(text: str | None) -> str:
    if text == "":
        raise InvalidValue("connection, channel, pattern: expected text that is not empty, got ''")
    return "" if text is None else text


def _checked(command: ServerCommand) -> ServerCommand:
    identity = bytes(command.identity)
    _check("reply", command.reply, not command.reply or _is_uuid(command.reply), "a UUID")
    _check("identity", "more", len(identity) <= MAX_SIZE, f"at most {MAX_SIZE} bytes of JSON")
    _check("identity", None, identity != b"null", "a JSON value other than null")
    if (identity and command.connection) or not (identity or command.connection or command.do == "connections"):
        raise InvalidValue("expected either identity or connection")
    is_known = not command.connection or (_is_text(command.connection, 36) and _is_uuid(command.connection))
    _check("connection", command.connection, is_known, "the identifier of a connection, a UUID")
    _check("reason", command.reason, _is_text(command.reason, MAX_REASON), f"text of at most {MAX_REASON} bytes")
    if command.do == "disconnect":
        _check("code", command.code, _is_within(command.code, 4000, 4999), "a close code from 4000 to 4999")
    elif command.do == "unsubscribe":
        _check("code", command.code, _is_within(command.code, 400, 599), "400 to 599")
        is_name = _is_text(command.channel, 4 * MAX_NAME) and 0 < len(command.channel) <= MAX_NAME
        _check("channel", command.channel, is_name, f"text of 1 to {MAX_NAME} characters")
    else:
        _check("limit", command.limit, _is_within(command.limit, 0, MAX_LISTED), f"0 to {MAX_LISTED}")
    return command


def _check(name: str, value: object, is_valid: object, expected: str) -> None:
    if not is_valid:
        shown = repr(value)
        raise InvalidValue(f"{name}: expected {expected}, got {shown if len(shown) <= 60 else shown[:60] + '…'}")


def _is_within(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _is_text(value: object, size: int) -> bool:
    try:
        return isinstance(value, str) and len(value.encode()) <= size
    except UnicodeEncodeError:
        return False


# On the wire

_encoder = msgspec.json.Encoder()
_command_decoder = msgspec.json.Decoder(ServerCommand)
_answer_decoder = msgspec.json.Decoder(ServerAnswer)


def encode_command(command: ServerCommand) -> bytes:
    """Return a command as JSON text."""
    return _encoder.encode(command)


def decode_command(text: bytes) -> ServerCommand:
    """Return a command.

    Raises:
        InvalidMessage: malformed, or an argument is invalid.
    """
    try:
        return _checked(_command_decoder.decode(text))
    except (msgspec.MsgspecError, InvalidValue, UnicodeError, RecursionError) as error:
        raise InvalidMessage(f"command to servers: {error}") from None


def encode_answer(answer: ServerAnswer) -> bytes:
    """Return an answer as JSON text."""
    return _encoder.encode(answer)


def within_answer(found: Iterable[ConnectionInfo], limit: int) -> list[ConnectionInfo]:
    """Return the first ``limit`` connections, or those of them that an answer has room for."""
    listed: list[ConnectionInfo] = []
    room = MAX_ANSWER
    for info in islice(found, limit):
        room -= len(_encoder.encode(info)) + 1
        if room < 0:
            break
        listed.append(info)
    return listed


def outcome(servers: Iterable[str], texts: Iterable[bytes], limit: int = LISTED) -> CommandOutcome:
    """Return what a command has achieved.

    Args:
        servers: identifiers of the servers that were asked.
        texts: answers, in any order. Malformed ones, repeated ones and those of other servers are ignored.
        limit: maximum number of connections to list.
    """
    asked = set(servers)
    answers: dict[str, ServerAnswer] = {}
    for text in texts:
        try:
            answer = _answer_decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
        if answer.server in asked:
            answers.setdefault(answer.server, answer)
    done = [answer for answer in answers.values() if not answer.error]
    return CommandOutcome(
        servers=len(asked),
        answered=len(done),
        connections=sum(answer.count for answer in done),
        listed=sorted((info for answer in done for info in answer.connections), key=lambda info: info.since)[:limit],
        errors=sorted({answer.error for answer in answers.values() if answer.error}),
    )


# Comparing identities


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("out of range")
    return int(number) if number.is_integer() else number


_any_decoder = msgspec.json.Decoder(float_hook=_number)
_sorting_encoder = msgspec.json.Encoder(order="sorted")


def canonical(text: bytes) -> bytes:
    """Return JSON text in a form that is the same for equal values.

    The order of members, spaces and escapes do not count, and 1 equals 1.0, but not true. Text that msgspec cannot
    decode is returned as it is.
    """
    try:
        return _sorting_encoder.encode(_any_decoder.decode(text))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text


def canonical_names(text: bytes) -> set[bytes]:
    """Return the canonical forms of the identities that name a client with the identity ``text``.

    They are the identity itself and, for the claims of a token, ``{"sub": …}`` and ``{"iss": …, "sub": …}``: all other
    claims may change when the token is renewed.
    """
    try:
        identity = _any_decoder.decode(text)
        names = {_sorting_encoder.encode(identity)}
        if isinstance(identity, dict) and identity.get("sub"):
            names.add(_sorting_encoder.encode({"sub": identity["sub"]}))
            names.add(_sorting_encoder.encode({"iss": identity.get("iss"), "sub": identity["sub"]}))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {text}
    return names
