"""Requests and responses of the HTTP API, and their names in its OpenAPI document. PURE."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct, field

from juggler.broker.names import MAX_LENGTH
from juggler.errors import CloseCode
from juggler.protocol.codec import MAX_TIMEOUT
from juggler.protocol.server_commands import LISTED, MAX_LISTED, MAX_REASON, UNSUBSCRIBED, ConnectionInfo

_Name = Annotated[str, Meta(min_length=1, max_length=MAX_LENGTH)]
_Channel = Annotated[_Name, Meta(description="Channel. Names that begin with 'juggler' or '__' are reserved.")]
_Reason = Annotated[str, Meta(max_length=MAX_REASON, description=f"Text for people, at most {MAX_REASON} bytes.")]
_Connection = Annotated[
    str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="Identifier of a connection.")
]
_Identity = Annotated[Raw, Meta(description="Caller identity of connections: any JSON value but null.")]
_Args = Annotated[Raw, Meta(description="Any JSON value.")]

NULL = Raw(b"null")
ABSENT = Raw(b"")
_null, _absent = field(default_factory=lambda: NULL), field(default_factory=lambda: ABSENT)


class Publish(Struct, forbid_unknown_fields=True, frozen=True):
    """An event to publish."""

    channel: _Channel
    args: _Args = _null


class Call(Struct, forbid_unknown_fields=True, frozen=True):
    """A function to call."""

    uri: Annotated[_Name, Meta(description="URI of the function.")]
    args: _Args = _null
    timeout: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT, description="Seconds to wait for the result.")] | None = None
    by: Annotated[Raw, Meta(description="Identity on whose behalf the call is made, at most 4 KiB of JSON.")] = _null


class Disconnect(Struct, forbid_unknown_fields=True, frozen=True):
    """Connections to close: those of an identity, or one."""

    identity: _Identity = _absent
    connection: _Connection | None = None
    code: Annotated[
        int, Meta(ge=4000, le=4999, description="Close code. 4410: clients do not come back; 4411: they reconnect.")
    ] = CloseCode.DISCONNECTED.value
    reason: _Reason = ""


class Unsubscribe(Struct, forbid_unknown_fields=True, frozen=True):
    """Subscriptions to end: of a channel or a pattern, of an identity or a connection."""

    channel: _Channel | None = None
    pattern: Annotated[_Name, Meta(description="Pattern, as clients have subscribed to it.")] | None = None
    identity: _Identity = _absent
    connection: _Connection | None = None
    reason: _Reason = UNSUBSCRIBED


class Connections(Struct, forbid_unknown_fields=True, frozen=True):
    """Connections to list: all, those of an identity, or one."""

    identity: _Identity = _absent
    connection: _Connection | None = None
    limit: Annotated[int, Meta(ge=0, le=MAX_LISTED, description="Maximum number to list.")] = LISTED


class Published(Struct, frozen=True):
    """An event that was published."""

    receivers: Annotated[int, Meta(description="Subscriptions of server processes that received it.")]


class Returned(Struct, frozen=True):
    """The result of a function."""

    failed: Annotated[bool, Meta(description='Whether the function failed: the result is then {"error": …}.')]
    result: _Args


class Commanded(Struct, frozen=True):
    """What servers have done."""

    servers: Annotated[int, Meta(description="Server processes that were asked.")]
    answered: Annotated[int, Meta(description="Server processes that answered in time.")]
    connections: Annotated[int, Meta(description="Connections that were closed, unsubscribed or found.")]
    errors: Annotated[list[str], Meta(description="What servers have reported instead.")] = []


class Listed(Struct, frozen=True):
    """Connections of all servers."""

    servers: int
    answered: int
    connections: Annotated[int, Meta(description="Number of connections, of which the oldest are listed.")]
    listed: list[ConnectionInfo]
    errors: list[str] = []


class Problem(Struct, frozen=True):
    """Why a request was refused or has failed.

    Attributes:
        code: the HTTP status.
        message: text for people.
    """

    code: int
    message: str


class Failure(Struct, frozen=True):
    """The body of responses other than 200, and what stands for a failed entry of a batch."""

    error: Problem
