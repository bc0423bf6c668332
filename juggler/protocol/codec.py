"""The JSON of juggler.0 and juggler.1: decode and encode messages and payloads. All knowledge of their JSON lives here.

PURE. ``args`` are not decoded: they are validated and keep their text. Decoding raises `InvalidMessage` and no other
error, whatever the text.
"""

from __future__ import annotations

import marshal
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from string import hexdigits
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

import msgspec
import ujson
from msgspec import NODEFAULT, Meta, Raw, Struct, field

from juggler.errors import InvalidMessage, InvalidValue, MessageNotAllowed
from juggler.protocol import rawjson
from juggler.protocol.class_defaults import set_defaults
from juggler.protocol.custom import FIRST, LAST, registered, registered_types
from juggler.protocol.messages import (
    MAX_WINDOW,
    NULL,
    REQUEST_TYPES,
    Ack,
    Auth,
    Call,
    Cncl,
    Crdt,
    CustomType,
    Ends,
    Evnt,
    Message,
    MessageType,
    Nack,
    Part,
    Parts,
    Pub,
    Request,
    Res,
    Response,
    Sub,
    Unknown,
    Unsb,
    Wlcm,
    is_response_number,
)

MAX_TIMEOUT = 24 * 3600.0
"""Maximum timeout of a CALL, in seconds."""


def check_timeout(timeout: float) -> float:
    """Return the timeout of a call in seconds. Raises `ValueError` if it is out of range."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"timeout: expected more than 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout!r}")
    return timeout


_NS = 1_000_000_000
_INT64 = 2**63  # larger timeouts are cut to it: all are refused alike, and not all of them are floats
_MAX_ERROR = 200
_MALFORMED = "JSON is malformed: "  # msgspec's words

_UUID = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
_DIGITS_TO_X = bytes.maketrans(hexdigits.encode() + b"x", b"x" * len(hexdigits) + b"?")
# W3C trace context, version 00; all zeros are invalid there.
_is_trace = re.compile(rb'"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"').fullmatch
_has_surrogate_escape = re.compile(r"\\u[dD]").search

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def _is_uuid(text: str) -> bool:
    # A third of the cost of a regular expression.
    return text.encode().translate(_DIGITS_TO_X) == _UUID


# JSON of messages. Only the Raw field of each may contain a lone surrogate.

_NULL = Raw(NULL)
_ABSENT = Raw(b"")
_NO_LIMITS = Raw(b"{}")
_Id = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=0, lt=2**53)]  # exact in JavaScript
_Seq = Annotated[int, Meta(ge=1, lt=2**53)]


class _Meta(Struct, gc=False):
    type: int
    uuid: str


class _Envelope(Struct, gc=False):
    meta: _Meta
    payload: Raw


class _Call(Struct, gc=False):
    uri: str
    timeout: int | None = None
    args: Raw = _NULL
    trace: Raw = _NULL  # malformed ones are ignored


class _Parts(Struct, gc=False):
    mode: str
    window: int


class _CallInParts(Struct, gc=False):
    uri: str
    timeout: int | None = None
    args: Raw = _NULL
    trace: Raw = _NULL
    parts: _Parts | None = None


class _Pub(Struct, gc=False):
    channel: str
    args: Raw = _NULL
    trace: Raw = _NULL


class _Sub(Struct, gc=False):
    channel: str
    pattern: bool | None = None


class _Cncl(Struct, gc=False):
    for_: str = field(name="for")
    wait: bool | None = None


class _Crdt(Struct, gc=False):
    for_: str = field(name="for")
    until: _Count


class _Auth(Struct, gc=False):
    token: str


class _Ack(Struct, gc=False):
    for_: str = field(name="for")
    for_type: int
    uri: str | None = None
    channel: str | None = None
    ttl: int | float | None = None


class _Nack(Struct, gc=False):
    for_: str = field(name="for")
    for_type: int
    code: int
    message: str
    uri: str | None = None
    channel: str | None = None


class _Res(Struct, gc=False):
    for_: str = field(name="for")
    uri: str = ""  # servers in Go leave it out if it is empty
    failed: bool | None = None
    args: Raw = _NULL


class _Evnt(Struct, gc=False):
    for_: str = field(name="for")
    channel: str = ""  # servers in Go leave it out if it is empty
    pattern: str | None = None
    args: Raw = _NULL
    trace: Raw = _NULL


class _Wlcm(Struct, gc=False):
    conn: str
    ttl: int | float | None = None
    features: tuple[str, ...] = ()
    limits: Raw = _NO_LIMITS


class _Part(Struct, gc=False):
    for_: str = field(name="for")
    seq: _Seq
    args: Raw = _NULL
    parts: Raw = _NULL


class _Ends(Struct, gc=False):
    channel: str
    code: int
    message: str
    pattern: bool | None = None


class _Stored(Struct, gc=False):
    conn_uuid: _Id
    msg_uuid: _Id
    uri: str
    by: Raw = _ABSENT
    parts: Raw = _NULL
    trace: Raw = _NULL
    args: Raw = _NULL


class _StoredParts(Struct, gc=False):
    mode: str
    until: _Count


class _StoredResult(Struct, gc=False):
    conn_uuid: _Id
    msg_uuid: _Id
    uri: str
    failed: bool | None = None
    seq: _Count = 0
    more: bool = False
    callee: str = ""
    keyless: bool = False
    args: Raw = _NULL
    parts: Raw = _NULL


class _Event(Struct, gc=False):
    msg_uuid: str
    args: Raw = _NULL
    trace: Raw = _NULL


# Text -> struct.

T = TypeVar("T", bound=Struct)


class _Reader(Generic[T]):
    """Decodes a struct; its only error is `InvalidMessage`.

    Attributes:
        decode: decodes all texts but those that need `recover`; hot paths call it without a function in between.
    """

    def __init__(self, type: type[T], where: str) -> None:
        """Read ``type``; ``where`` is the path of the text in a message, for errors."""
        self._where = where
        self.decode = msgspec.json.Decoder(type).decode

    def __call__(self, text: str | Raw) -> T:
        try:
            return self.decode(text)
        except _DECODE_ERRORS as error:
            return self.recover(text, error)

    def recover(self, text: str | bytes | Raw, error: Exception) -> T:
        """Decode a text that msgspec refuses although it is valid, or raise `InvalidMessage`."""
        if isinstance(error, (msgspec.ValidationError, RecursionError)):
            raise _invalid(error, self._where) from None
        if isinstance(error, UnicodeError):
            place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
            raise InvalidMessage(f"{self._where}: not UTF-8{place}") from None
        whole = text if isinstance(text, str) else bytes(text).decode()
        if not _has_surrogate_escape(whole):
            raise _invalid(error, self._where) from None
        try:
            masked = rawjson.mask(whole)
            value = self.decode(masked.text)
        except (RecursionError, ValueError) as failure:  # ValueError is the base of msgspec's errors
            raise _invalid(failure, self._where) from None
        try:
            _unmask(value, masked)
        except ValueError:
            raise InvalidMessage(f"{self._where}: lone surrogate outside of args") from None
        return value


_DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeError)


def _unmask(value: Struct, masked: rawjson.Masked) -> None:
    """Restore the strings and texts of a struct that was decoded from a masked text.

    Raises:
        ValueError: a string contains a lone surrogate.
    """
    for name in value.__struct_fields__:
        part = getattr(value, name)
        if isinstance(part, str):
            setattr(value, name, masked.unmask_string(part))
        elif isinstance(part, Raw) and part is not _NULL:
            setattr(value, name, Raw(masked.unmask(bytes(part).decode())))
        elif isinstance(part, tuple):
            setattr(value, name, tuple(map(masked.unmask_string, part)))
        elif isinstance(part, Struct):
            _unmask(part, masked)


def _invalid(error: Exception, where: str) -> InvalidMessage:
    if isinstance(error, RecursionError):
        return InvalidMessage(f"{where}: nested too deeply")
    what = str(error).replace("`", "").replace(" | null", "")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidMessage(f"{where}: invalid JSON: {what.removeprefix(_MALFORMED)}"[:_MAX_ERROR])
    what, _, path = what.partition(" - at $")
    return InvalidMessage(f"{where}{path}: {what[:1].lower()}{what[1:]}"[:_MAX_ERROR])


def _wrong(where: str, expected: str, got: object) -> InvalidMessage:
    return InvalidMessage(f"{where}: expected {expected}, got {_repr.repr(got)}"[:_MAX_ERROR])


_read_envelope = _Reader(_Envelope, "$")
_read_call = _Reader(_Call, "$.payload")
_read_pub = _Reader(_Pub, "$.payload")
_read_call_in_parts = _Reader(_CallInParts, "$.payload")
_read_sub = _Reader(_Sub, "$.payload")
_read_cncl = _Reader(_Cncl, "$.payload")
_read_crdt = _Reader(_Crdt, "$.payload")
_read_auth = _Reader(_Auth, "$.payload")
_read_ack = _Reader(_Ack, "$.payload")
_read_nack = _Reader(_Nack, "$.payload")
_read_res = _Reader(_Res, "$.payload")
_read_evnt = _Reader(_Evnt, "$.payload")
_read_wlcm = _Reader(_Wlcm, "$.payload")
_read_part = _Reader(_Part, "$.payload")
_read_ends = _Reader(_Ends, "$.payload")
_read_stored = _Reader(_Stored, "$")
_read_stored_parts = _Reader(_StoredParts, "$.parts")
_read_stored_result = _Reader(_StoredResult, "$")
_read_event = _Reader(_Event, "$")


# Struct -> message.


def _decode_call(uuid: str, text: Raw) -> Call:
    try:
        payload = _read_call.decode(text)
    except _DECODE_ERRORS as error:
        payload = _read_call.recover(text, error)
    timeout = payload.timeout or 0
    if not -_INT64 <= timeout <= _INT64:
        timeout = _INT64 if timeout > 0 else -_INT64
    if payload.trace is _NULL:
        return Call(uuid=uuid, uri=payload.uri, args=bytes(payload.args), timeout=timeout / _NS)
    trace = _trace(payload.trace)
    return Call(uuid=uuid, uri=payload.uri, args=bytes(payload.args), timeout=timeout / _NS, trace=trace)


def _decode_call_in_parts(uuid: str, text: Raw) -> Call:
    try:
        payload = _read_call_in_parts.decode(text)
    except _DECODE_ERRORS as error:
        payload = _read_call_in_parts.recover(text, error)
    timeout = payload.timeout or 0
    if not -_INT64 <= timeout <= _INT64:
        timeout = _INT64 if timeout > 0 else -_INT64
    if payload.parts is None and payload.trace is _NULL:
        return Call(uuid=uuid, uri=payload.uri, args=bytes(payload.args), timeout=timeout / _NS)
    return Call(
        uuid=uuid,
        uri=payload.uri,
        args=bytes(payload.args),
        timeout=timeout / _NS,
        parts=None if payload.parts is None else _parts(payload.parts),
        trace=_trace(payload.trace),
    )


def _trace(text: Raw) -> str:
    """Return a valid traceparent, or nothing: as W3C demands, a malformed one is no error."""
    trace = bytes(text)
    return trace[1:-1].decode() if _is_trace(trace) else ""


def _mode(mode: str, where: str) -> Literal["all", "latest"]:
    if mode == "all":
        return "all"
    if mode == "latest":
        return "latest"
    raise _wrong(where, "all or latest", mode)


def _parts(parts: _Parts) -> Parts:
    mode = _mode(parts.mode, "$.payload.parts.mode")
    if not 1 <= parts.window <= MAX_WINDOW:
        raise _wrong("$.payload.parts.window", f"1 to {MAX_WINDOW}", parts.window)
    return Parts(mode, parts.window)


def _decode_pub(uuid: str, text: Raw) -> Pub:
    payload = _read_pub(text)
    if payload.trace is _NULL:
        return Pub(uuid=uuid, channel=payload.channel, args=bytes(payload.args))
    return Pub(uuid=uuid, channel=payload.channel, args=bytes(payload.args), trace=_trace(payload.trace))


def _decode_sub(uuid: str, text: Raw) -> Sub:
    payload = _read_sub(text)
    return Sub(uuid=uuid, channel=payload.channel, is_pattern=payload.pattern or False)


def _decode_unsb(uuid: str, text: Raw) -> Unsb:
    payload = _read_sub(text)
    return Unsb(uuid=uuid, channel=payload.channel, is_pattern=payload.pattern or False)


def _decode_cncl(uuid: str, text: Raw) -> Cncl:
    payload = _read_cncl(text)
    return Cncl(uuid=uuid, for_=_for(payload), wait=payload.wait or False)


def _decode_crdt(uuid: str, text: Raw) -> Crdt:
    payload = _read_crdt(text)
    return Crdt(uuid=uuid, for_=_for(payload), until=payload.until)


def _decode_auth(uuid: str, text: Raw) -> Auth:
    return Auth(uuid=uuid, token=_read_auth(text).token)


def _for(payload: _Cncl | _Crdt | _Ack | _Nack | _Res | _Evnt | _Part) -> str:
    if not _is_uuid(payload.for_):
        raise _wrong("$.payload.for", "a UUID", payload.for_)
    return payload.for_


def _for_type(payload: _Ack | _Nack) -> int:
    if is_response_number(payload.for_type):
        raise _wrong("$.payload.for_type", "the type of a request", payload.for_type)
    return payload.for_type


def _decode_ack(uuid: str, text: Raw) -> Ack:
    payload = _read_ack(text)
    return Ack(
        uuid=uuid,
        for_=_for(payload),
        for_type=_for_type(payload),
        uri=payload.uri or "",
        channel=payload.channel or "",
        ttl=payload.ttl,
    )


def _decode_nack(uuid: str, text: Raw) -> Nack:
    payload = _read_nack(text)
    return Nack(
        uuid=uuid,
        for_=_for(payload),
        for_type=_for_type(payload),
        code=payload.code,
        message=payload.message,
        uri=payload.uri or "",
        channel=payload.channel or "",
    )


def _decode_res(uuid: str, text: Raw) -> Res:
    payload = _read_res(text)
    return Res(uuid=uuid, for_=_for(payload), uri=payload.uri, args=bytes(payload.args), failed=payload.failed)


def _decode_evnt(uuid: str, text: Raw) -> Evnt:
    payload = _read_evnt(text)
    return Evnt(
        uuid=uuid,
        for_=_for(payload),
        channel=payload.channel,
        pattern=payload.pattern or "",
        args=bytes(payload.args),
        trace="" if payload.trace is _NULL else _trace(payload.trace),
    )


def _decode_wlcm(uuid: str, text: Raw) -> Wlcm:
    payload = _read_wlcm(text)
    if not _is_uuid(payload.conn):
        raise _wrong("$.payload.conn", "a UUID", payload.conn)
    try:
        limits = decode_args(bytes(payload.limits))
    except InvalidValue as error:
        raise InvalidMessage(f"$.payload.limits: {error}"[:_MAX_ERROR]) from None
    if not isinstance(limits, dict):
        raise _wrong("$.payload.limits", "an object", limits)
    return Wlcm(uuid=uuid, conn=payload.conn, features=payload.features, limits=limits, ttl=payload.ttl)


def _decode_part(uuid: str, text: Raw) -> Part:
    payload = _read_part(text)
    args, joined = _joined(payload, "$.payload.parts")
    return Part(uuid=uuid, for_=_for(payload), seq=payload.seq, args=args, joined=joined)


def _joined(payload: _Part | _StoredResult, where: str) -> tuple[bytes, bool]:
    """Return what was sent, and whether it is an array of joined parts."""
    parts = bytes(payload.parts)
    if parts == NULL:
        return bytes(payload.args), False
    if not parts.startswith(b"["):
        raise _wrong(where, "an array", parts[:_MAX_ERROR].decode(errors="replace"))
    return parts, True


def _decode_ends(uuid: str, text: Raw) -> Ends:
    payload = _read_ends(text)
    return Ends(
        uuid=uuid,
        channel=payload.channel,
        is_pattern=payload.pattern or False,
        code=payload.code,
        message=payload.message,
    )


Decoders: TypeAlias = Mapping[int, Callable[[str, Raw], Request]]
"""Functions that decode requests, by their types."""

REQUESTS_0: Decoders = {
    MessageType.CALL: _decode_call,
    MessageType.PUB: _decode_pub,
    MessageType.SUB: _decode_sub,
    MessageType.UNSB: _decode_unsb,
}
"""The requests of juggler.0."""

REQUESTS_1: Decoders = {
    **REQUESTS_0,
    MessageType.CALL: _decode_call_in_parts,
    MessageType.CNCL: _decode_cncl,
    MessageType.CRDT: _decode_crdt,
    MessageType.AUTH: _decode_auth,
}
"""The requests of juggler.1."""

_RESPONSES: dict[int, Callable[[str, Raw], Response]] = {
    MessageType.NACK: _decode_nack,
    MessageType.ACK: _decode_ack,
    MessageType.RES: _decode_res,
    MessageType.EVNT: _decode_evnt,
    MessageType.WLCM: _decode_wlcm,
    MessageType.PART: _decode_part,
    MessageType.ENDS: _decode_ends,
}

_MESSAGES: dict[int, Callable[[str, Raw], Message]] = {**REQUESTS_1, **_RESPONSES}
_LATER_TYPES = range(16, 48)

_NAMES = {int(type): type.name for type in MessageType if type not in (MessageType.UNKNOWN, MessageType.CUSTOM)}


def _refuse_type(type: int, allowed: Iterable[int], known: Iterable[int]) -> NoReturn:
    expected = " or ".join(map(_type_name, sorted(allowed)))
    if type not in known:
        raise _wrong("$.meta.type", expected, type)
    raise MessageNotAllowed(f"$.meta.type: only {expected} may be sent here, got {_type_name(type)}")


def _type_name(number: int) -> str:
    custom = registered(number)
    name = _NAMES.get(number) if custom is None else getattr(custom.type, "name", None)
    return str(int(number)) if name is None else f"{int(number)} ({name})"


# Messages of custom types.

_payload_readers: dict[type[Message], _Reader[Any]] = {}


def _payload_reader(cls: type[Message]) -> _Reader[Any]:
    """Return the reader of the payload of a class: a struct of its fields without ``uuid``."""
    reader = _payload_readers.get(cls)
    if reader is None:
        fields = []
        for each in msgspec.structs.fields(cls):
            options = {"name": each.encode_name}
            if each.default is not NODEFAULT:
                options["default"] = each.default
            elif each.default_factory is not NODEFAULT:
                options["default_factory"] = each.default_factory
            if each.name != "uuid":
                fields.append((each.name, each.type, field(**options)))
        reader = _payload_readers[cls] = _Reader(msgspec.defstruct(cls.__name__, fields, kw_only=True), "$.payload")
    return reader


def _decode_custom(cls: type[Message], uuid: str, text: Raw) -> Message:
    payload = _payload_reader(cls)(text)
    return cls(uuid=uuid, **{name: getattr(payload, name) for name in payload.__struct_fields__})


def _encode_custom(message: Message, uuid: str) -> bytes:
    payload = {
        each.encode_name: getattr(message, each.name) for each in msgspec.structs.fields(message) if each.name != "uuid"
    }
    try:
        return _UNKNOWN % (message.type, _quote(uuid), msgspec.json.encode(payload))
    except TypeError as error:
        raise ValueError(str(error)) from error


def decode_request(
    text: str, allowed: frozenset[int] = REQUEST_TYPES, decoders: Decoders = REQUESTS_0
) -> Request | Message:
    """Decode a request.

    Args:
        text: a websocket text message.
        allowed: types that this client may send. With `MessageType.UNKNOWN`, a request of another type is decoded as
            `Unknown`.
        decoders: requests of the subprotocol. Registered requests are added, see `juggler.protocol.custom`.

    Raises:
        MessageNotAllowed: a message of another type.
        InvalidMessage: malformed.
    """
    try:
        envelope = _read_envelope.decode(text)
    except _DECODE_ERRORS as error:
        envelope = _read_envelope.recover(text, error)
    if envelope.meta.uuid.encode().translate(_DIGITS_TO_X) != _UUID:  # as `_is_uuid`, without a call
        raise _wrong("$.meta.uuid", "a UUID", envelope.meta.uuid)
    type = envelope.meta.type
    decode = decoders.get(type)
    if decode is None or type not in allowed:
        custom = registered(type)
        if custom is not None and type in allowed:
            return _decode_custom(custom, envelope.meta.uuid, envelope.payload)
        is_response = is_response_number(type)
        if decode is None and custom is None and not is_response and MessageType.UNKNOWN in allowed:
            return Unknown(uuid=envelope.meta.uuid, number=type, payload=bytes(envelope.payload))
        requests = {*decoders, *(each for each in registered_types() if each.is_request)}
        is_known = is_response or custom is not None
        _refuse_type(type, allowed & requests, (*requests, *_RESPONSES, *([type] if is_known else ())))
    return decode(envelope.meta.uuid, envelope.payload)


def decode_response(text: str) -> Response | Unknown | Message:
    """Decode a response.

    Args:
        text: a websocket text message.

    Returns:
        The response, which may be of a registered type; `Unknown` for one of a later version, or of a custom type that
        is not registered here.

    Raises:
        MessageNotAllowed: a request, which only clients send.
        InvalidMessage: malformed.
    """
    try:
        envelope = _read_envelope.decode(text)
    except _DECODE_ERRORS as error:
        envelope = _read_envelope.recover(text, error)
    if not _is_uuid(envelope.meta.uuid):
        raise _wrong("$.meta.uuid", "a UUID", envelope.meta.uuid)
    type = envelope.meta.type
    if type not in _RESPONSES:
        custom = registered(type)
        if custom is not None and isinstance(custom.type, CustomType) and custom.type.is_response:
            return _decode_custom(custom, envelope.meta.uuid, envelope.payload)
        if is_response_number(type) or (custom is None and FIRST <= type <= LAST):
            return Unknown(uuid=envelope.meta.uuid, number=type, payload=bytes(envelope.payload))
        _refuse_type(type, _RESPONSES, (*REQUESTS_1, *registered_types()))
    return _RESPONSES[type](envelope.meta.uuid, envelope.payload)


def decode_message(text: str) -> Message:
    """Decode a request or a response of any subprotocol: for programs between clients and servers, and for tools.

    Args:
        text: a websocket text message.

    Returns:
        The message; `Unknown` for one of a later version.

    Raises:
        InvalidMessage: malformed, or of a type that is none of a message.
    """
    envelope = _read_envelope(text)
    if not _is_uuid(envelope.meta.uuid):
        raise _wrong("$.meta.uuid", "a UUID", envelope.meta.uuid)
    type = envelope.meta.type
    decode = _MESSAGES.get(type)
    if decode is None:
        custom = registered(type)
        if custom is not None:
            return _decode_custom(custom, envelope.meta.uuid, envelope.payload)
        if type in _LATER_TYPES:
            return Unknown(uuid=envelope.meta.uuid, number=type, payload=bytes(envelope.payload))
        raise _wrong("$.meta.type", "the type of a message", type)
    return decode(envelope.meta.uuid, envelope.payload)


# Message -> text.

_quote = msgspec.json.encode

_HEAD = b'{"meta":{"type":%d,"uuid":%%b},"payload":{'
_CALL = _HEAD % MessageType.CALL + b'"uri":%b,"timeout":%d,"args":%b}}'
_CALL_WITH = _HEAD % MessageType.CALL + b'"uri":%b,"timeout":%d%b,"args":%b}}'
_PARTS = b',"parts":{"mode":%b,"window":%d}'
_STORED_PARTS = b',"parts":{"mode":%b,"until":%d}'
_TRACE = b',"trace":%b'
_PUB = _HEAD % MessageType.PUB + b'"channel":%b,"args":%b}}'
_TRACED_PUB = _HEAD % MessageType.PUB + b'"channel":%b,"trace":%b,"args":%b}}'
_SUB = _HEAD % MessageType.SUB + b'"channel":%b,"pattern":%b}}'
_UNSB = _HEAD % MessageType.UNSB + b'"channel":%b,"pattern":%b}}'
_CNCL = _HEAD % MessageType.CNCL + b'"for":%b,"wait":%b}}'
_CRDT = _HEAD % MessageType.CRDT + b'"for":%b,"until":%d}}'
_AUTH = _HEAD % MessageType.AUTH + b'"token":%b}}'
_UNKNOWN = b'{"meta":{"type":%d,"uuid":%b},"payload":%b}'
_NACK = _HEAD % MessageType.NACK + b'"for":%b,"for_type":%d%b,"code":%d,"message":%b}}'
_ACK = _HEAD % MessageType.ACK + b'"for":%b,"for_type":%d%b}}'
_RES = _HEAD % MessageType.RES + b'"for":%b,"uri":%b,"args":%b}}'
_FLAGGED_RES = _HEAD % MessageType.RES + b'"for":%b,"uri":%b,"failed":%b,"args":%b}}'
_EVNT = _HEAD % MessageType.EVNT + b'"for":%b,"channel":%b,"args":%b}}'
_EVNT_BY_PATTERN = _HEAD % MessageType.EVNT + b'"for":%b,"channel":%b,"pattern":%b,"args":%b}}'
_TRACED_EVNT = _HEAD % MessageType.EVNT + b'"for":%b,"channel":%b%b,"trace":%b,"args":%b}}'
_WLCM = _HEAD % MessageType.WLCM + b'"conn":%b%b,"features":%b,"limits":%b}}'
_PART = _HEAD % MessageType.PART + b'"for":%b,"seq":%d,"args":%b}}'
_JOINED_PART = _HEAD % MessageType.PART + b'"for":%b,"seq":%d,"parts":%b}}'
_ENDS = _HEAD % MessageType.ENDS + b'"channel":%b,"pattern":%b,"code":%d,"message":%b}}'
_STORED = b'{"conn_uuid":%b,"msg_uuid":%b,"uri":%b,"args":%b}'
_KEYLESS_RESULT = b'{"conn_uuid":%b,"msg_uuid":%b,"uri":%b,"keyless":true,"args":%b}'
_STORED_WITH = b'{"conn_uuid":%b,"msg_uuid":%b,"uri":%b%b,"args":%b}'
_RESULT_WITH = b'{"conn_uuid":%b,"msg_uuid":%b,"uri":%b%b,%b:%b}'
_FLAGGED_RESULT = b'{"conn_uuid":%b,"msg_uuid":%b,"uri":%b,"failed":%b,"args":%b}'
_FLAGS = {False: b"false", True: b"true"}
_EVENT = b'{"msg_uuid":%b,"args":%b}'
_TRACED_EVENT = b'{"msg_uuid":%b,"trace":%b,"args":%b}'


def _encode_call(m: Call, uuid: str) -> bytes:
    if m.parts is None and not m.trace:
        return _CALL % (_quote(uuid), _quote(m.uri), round(m.timeout * _NS), m.args)
    members = b"" if m.parts is None else _PARTS % (_quote(m.parts.mode), m.parts.window)
    if m.trace:
        members += _TRACE % _quote(m.trace)
    return _CALL_WITH % (_quote(uuid), _quote(m.uri), round(m.timeout * _NS), members, m.args)


def _encode_pub(m: Pub, uuid: str) -> bytes:
    if m.trace:
        return _TRACED_PUB % (_quote(uuid), _quote(m.channel), _quote(m.trace), m.args)
    return _PUB % (_quote(uuid), _quote(m.channel), m.args)


def _encode_sub(m: Sub, uuid: str) -> bytes:
    return _SUB % (_quote(uuid), _quote(m.channel), _quote(m.is_pattern))


def _encode_unsb(m: Unsb, uuid: str) -> bytes:
    return _UNSB % (_quote(uuid), _quote(m.channel), _quote(m.is_pattern))


def _encode_cncl(m: Cncl, uuid: str) -> bytes:
    return _CNCL % (_quote(uuid), _quote(m.for_), _FLAGS[m.wait])


def _encode_crdt(m: Crdt, uuid: str) -> bytes:
    return _CRDT % (_quote(uuid), _quote(m.for_), m.until)


def _encode_auth(m: Auth, uuid: str) -> bytes:
    return _AUTH % (_quote(uuid), _quote(m.token))


def _encode_unknown(m: Unknown, uuid: str) -> bytes:
    return _UNKNOWN % (m.number, _quote(uuid), m.payload)


def _target(m: Ack | Nack) -> bytes:
    uri = b',"uri":' + _quote(m.uri) if m.uri else b""
    return uri + b',"channel":' + _quote(m.channel) if m.channel else uri


def _encode_nack(m: Nack, uuid: str) -> bytes:
    return _NACK % (_quote(uuid), _quote(m.for_), m.for_type, _target(m), m.code, _quote_any(m.message))


def _quote_any(reason: str) -> bytes:
    # It may quote anything: replace what UTF-8 cannot encode, so that the message is sent.
    return _quote(reason.encode("utf-8", "replace").decode())


def _encode_ack(m: Ack, uuid: str) -> bytes:
    target = b',"uri":' + _quote(m.uri) if m.uri and not m.channel else _target(m)
    if m.ttl is not None:
        target += b',"ttl":' + _quote(m.ttl)
    return _ACK % (_quote(uuid), _quote(m.for_), m.for_type, target)


def _encode_res(m: Res, uuid: str) -> bytes:
    if m.failed is not None:
        return _FLAGGED_RES % (_quote(uuid), _quote(m.for_), _quote(m.uri), _FLAGS[m.failed], m.args)
    return _RES % (_quote(uuid), _quote(m.for_), _quote(m.uri), m.args)


def _encode_evnt(m: Evnt, uuid: str) -> bytes:
    if m.trace:
        pattern = b',"pattern":' + _quote(m.pattern) if m.pattern else b""
        return _TRACED_EVNT % (_quote(uuid), _quote(m.for_), _quote(m.channel), pattern, _quote(m.trace), m.args)
    if m.pattern:
        return _EVNT_BY_PATTERN % (_quote(uuid), _quote(m.for_), _quote(m.channel), _quote(m.pattern), m.args)
    return _EVNT % (_quote(uuid), _quote(m.for_), _quote(m.channel), m.args)


def _encode_wlcm(m: Wlcm, uuid: str) -> bytes:
    ttl = b"" if m.ttl is None else b',"ttl":' + _quote(m.ttl)
    return _WLCM % (_quote(uuid), _quote(m.conn), ttl, _quote(m.features), encode_args(m.limits))


def _encode_part(m: Part, uuid: str) -> bytes:
    return (_JOINED_PART if m.joined else _PART) % (_quote(uuid), _quote(m.for_), m.seq, m.args)


def _encode_ends(m: Ends, uuid: str) -> bytes:
    return _ENDS % (_quote(uuid), _quote(m.channel), _FLAGS[m.is_pattern], m.code, _quote_any(m.message))


_ENCODERS: dict[type[Message], Callable[[Any, str], bytes]] = {
    Call: _encode_call,
    Pub: _encode_pub,
    Sub: _encode_sub,
    Unsb: _encode_unsb,
    Cncl: _encode_cncl,
    Crdt: _encode_crdt,
    Auth: _encode_auth,
    Unknown: _encode_unknown,
    Nack: _encode_nack,
    Ack: _encode_ack,
    Res: _encode_res,
    Evnt: _encode_evnt,
    Wlcm: _encode_wlcm,
    Part: _encode_part,
    Ends: _encode_ends,
}


def encode(message: Message, uuid: str = "") -> bytes:
    """Return a message as JSON text in UTF-8. Its ``args`` are not checked.

    Args:
        message: a request or a response.
        uuid: its identifier, where the message has none yet.

    Raises:
        InvalidValue: a URI or channel that UTF-8 cannot carry, or a timeout that is no number.
        TypeError: it is neither.
    """
    encoder = _ENCODERS.get(type(message))
    if encoder is None and registered(getattr(message, "type", 0)) is type(message):
        encoder = _encode_custom
    if encoder is None:
        raise TypeError(f"expected a request or a response, got {type(message).__name__}")
    try:
        return encoder(message, message.uuid or uuid)
    except (ValueError, OverflowError) as error:
        raise InvalidValue(f"{type(message).__name__} cannot be written: {error}") from None


# Payloads of brokers.


class StoredParts(Struct, frozen=True, gc=False):
    """How a stored call asks for parts.

    Attributes:
        mode: see `juggler.protocol.messages.Parts`.
        until: the first credit: parts up to this number may be sent. A window is a credit from the start.
    """

    mode: Literal["all", "latest"]
    until: int


class StoredCall(Struct, frozen=True, gc=False):
    """A call as brokers store it. What is absent leaves no trace in its text.

    Attributes:
        conn_uuid: identifies the consumer of the result.
        msg_uuid: identifies the call.
        uri: URI of the function.
        args: arguments as JSON text.
        by: who calls, as JSON text; empty if that is unknown.
        parts: how the caller asks for parts; ``None`` if it does not.
        trace: W3C traceparent; empty without a valid one.
    """

    conn_uuid: str
    msg_uuid: str
    uri: str
    args: bytes = NULL
    by: bytes = b""
    parts: StoredParts | None = None
    trace: str = ""


class StoredResult(Struct, frozen=True, gc=False):
    """A result as brokers store it, or one of its parts, for its consumer. See `encode_result`.

    Attributes:
        msg_uuid: identifies the call.
        args: the result, or the part, as JSON text; a JSON array of the parts, if several were joined.
        failed: see `juggler.protocol.messages.Res`.
        seq: number of the part, of joined ones that of the first; 0 for what is not a part.
        more: whether the result is still to come. With ``seq`` 0 there is no part either: a callee has taken the call.
        callee: identifier of the callee; empty if it is unknown.
        joined: whether several parts were joined.
        keyless: whether it was stored without a timeout key.
    """

    msg_uuid: str
    args: bytes = NULL
    failed: bool | None = None
    seq: int = 0
    more: bool = False
    callee: str = ""
    joined: bool = False
    keyless: bool = False


def decode_call(data: bytes) -> StoredCall:
    """Return a stored call.

    Raises:
        InvalidMessage: malformed.
    """
    try:
        stored = _read_stored.decode(data.decode())
    except _DECODE_ERRORS as error:
        stored = _read_stored.recover(data, error)
    if stored.by is _ABSENT and stored.parts is _NULL and stored.trace is _NULL:
        return StoredCall(stored.conn_uuid, stored.msg_uuid, stored.uri, bytes(stored.args))
    parts = bytes(stored.parts)
    return StoredCall(
        stored.conn_uuid,
        stored.msg_uuid,
        stored.uri,
        bytes(stored.args),
        bytes(stored.by),
        None if parts == NULL else _stored_parts(stored.parts),
        _trace(stored.trace),
    )


def _stored_parts(text: Raw) -> StoredParts:
    parts = _read_stored_parts(text)
    return StoredParts(_mode(parts.mode, "$.parts.mode"), parts.until)


def decode_result(data: bytes) -> StoredResult:
    """Return a stored result or part.

    Raises:
        InvalidMessage: malformed.
    """
    try:
        stored = _read_stored_result.decode(data.decode())
    except _DECODE_ERRORS as error:
        stored = _read_stored_result.recover(data, error)
    if stored.parts is _NULL:
        args = bytes(stored.args)
        joined = False
    else:
        args, joined = _joined(stored, "$.parts")
    return StoredResult(
        stored.msg_uuid, args, stored.failed, stored.seq, stored.more, stored.callee, joined, stored.keyless
    )


def split_parts(args: bytes) -> list[bytes]:
    """Return joined parts one by one, from their JSON array.

    Raises:
        InvalidMessage: malformed.
    """
    try:
        return [bytes(part) for part in _decode_array(args)]
    except _DECODE_ERRORS as error:
        raise InvalidMessage(f"$.parts: {error}"[:_MAX_ERROR]) from None


def count_parts(args: bytes) -> int:
    """Return the number of joined parts. Raises as `split_parts`."""
    try:
        return len(_decode_array(args))
    except _DECODE_ERRORS as error:
        raise InvalidMessage(f"$.parts: {error}"[:_MAX_ERROR]) from None


def decode_event(data: bytes) -> tuple[str, bytes, str]:
    """Return the ``msg_uuid``, ``args`` and ``trace`` of a publication; ``trace`` is empty without a valid one.

    Raises:
        InvalidMessage: malformed.
    """
    try:
        event = _read_event.decode(data.decode())
    except _DECODE_ERRORS as error:
        event = _read_event.recover(data, error)
    if not _is_uuid(event.msg_uuid):  # it becomes the "for" of an EVNT
        raise _wrong("$.msg_uuid", "a UUID", event.msg_uuid)
    return event.msg_uuid, bytes(event.args), "" if event.trace is _NULL else _trace(event.trace)


def encode_call(
    conn_uuid: str,
    msg_uuid: str,
    uri: str,
    args: bytes,
    by: bytes = b"",
    parts: StoredParts | None = None,
    trace: str = "",
) -> bytes:
    """Return a call as brokers store it, see `StoredCall`. ``args`` and ``by`` are not checked."""
    if parts is None and not by and not trace:
        return _STORED % (_quote(conn_uuid), _quote(msg_uuid), _quote(uri), args)
    members = b',"by":' + by if by else b""
    if parts is not None:
        members += _STORED_PARTS % (_quote(parts.mode), parts.until)
    if trace:
        members += _TRACE % _quote(trace)
    return _STORED_WITH % (_quote(conn_uuid), _quote(msg_uuid), _quote(uri), members, args)


def encode_result(
    conn_uuid: str,
    msg_uuid: str,
    uri: str,
    args: bytes,
    failed: bool | None = None,
    seq: int = 0,
    more: bool = False,
    callee: str = "",
    joined: bool = False,
    keyless: bool = False,
) -> bytes:
    """Return a result or a part as brokers store it. ``args`` are not checked.

    Without ``more``, ``callee`` and ``keyless``, the text is that of juggler.0. The arguments are those of
    `StoredResult`.
    """
    if not callee and not more:
        if failed is None:
            return (_KEYLESS_RESULT if keyless else _STORED) % (_quote(conn_uuid), _quote(msg_uuid), _quote(uri), args)
        if not keyless:
            return _FLAGGED_RESULT % (_quote(conn_uuid), _quote(msg_uuid), _quote(uri), _FLAGS[failed], args)
    members = b"" if failed is None else b',"failed":' + _FLAGS[failed]
    if more:
        members += b',"seq":%d,"more":true' % seq
    if callee:
        members += b',"callee":' + _quote(callee)
    if keyless:
        members += b',"keyless":true'
    name = b'"parts"' if joined else b'"args"'
    return _RESULT_WITH % (_quote(conn_uuid), _quote(msg_uuid), _quote(uri), members, name, args)


def encode_event(msg_uuid: str, args: bytes, trace: str = "") -> bytes:
    """Return an event as it is published. ``args`` are not checked."""
    if trace:
        return _TRACED_EVENT % (_quote(msg_uuid), _quote(trace), args)
    return _EVENT % (_quote(msg_uuid), args)


# Python values <-> args.

_check_json = msgspec.json.Decoder(Raw).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


# JSON has no standard form for bytes; numbers are written alike at any depth.
_BYTES = (bytes, bytearray, memoryview)
_KEPT = (*_BYTES, Decimal)


def _plain(value: object) -> Any:
    """Convert a value that ujson does not know; its parts may need conversion in turn."""
    if not isinstance(value, _BYTES):
        try:
            set_defaults(value)
            return _exact(msgspec.to_builtins(value, builtin_types=_KEPT))
        except (TypeError, ValueError) as error:
            what = str(error)
            if type(value).__name__ not in what:
                raise InvalidValue(f"{type(value).__name__} cannot be sent as JSON: {what}"[:_MAX_ERROR]) from None
    raise InvalidValue(f"{type(value).__name__} cannot be sent as JSON: {_repr.repr(value)}"[:_MAX_ERROR])


def encode_args(value: Any) -> bytes:
    """Return a Python value as JSON text.

    From ujson: keys that are not strings become strings, and objects may define their JSON with ``__json__`` or
    ``toDict``. From msgspec: dataclasses and structs become objects, sets arrays, enums their values, dates, times and
    UUIDs strings. A ``Decimal`` becomes a number with all its digits, an enum as a key its value.

    Raises:
        InvalidValue: JSON cannot carry the value (NaN, bytes, a set of objects), it is circular, or nested too deeply.
    """
    kind = type(value)
    try:
        if (kind is str and value.isascii()) or kind in _SIMPLE_TYPES:
            return _quote(value)  # the same text, at a tenth of the cost
        text = _dump(value)
        _check(text)
    except InvalidValue:
        raise
    except RecursionError:
        raise InvalidValue("nested too deeply, or circular") from None
    except OverflowError as error:
        circular = "recursion" in str(error)
        raise InvalidValue("nested too deeply, or circular" if circular else "NaN and Infinity are not JSON") from None
    except Exception as error:
        raise InvalidValue(f"cannot be sent as JSON: {error}"[:_MAX_ERROR]) from error
    return bytes(text, "utf-8")


def _dump(value: Any) -> str:
    try:
        text: str = _ujson(value)
    except OverflowError as error:
        if "recursion" in str(error) or not _is_inexact((value,)):
            raise
        return _ujson(_exact(value))  # a Decimal beyond the range of floats
    # ujson writes a Decimal as a float and an enum as a key by its name: both have a point.
    return _ujson(_exact(value)) if "." in text and not _is_plain(value) and _is_inexact((value,)) else text


def _ujson(value: Any) -> str:
    text: str = ujson.dumps(value, allow_nan=False, escape_forward_slashes=False, default=_plain)
    return text


class _Number:
    """A number that ujson writes as it is."""

    __slots__ = ("_text",)

    def __init__(self, value: Decimal) -> None:
        if not value.is_finite():
            raise InvalidValue("NaN and Infinity are not JSON")
        self._text = Decimal.__str__(value)

    def __json__(self) -> str:
        return self._text


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of built-in types. Seven times as fast as to look for others."""
    try:
        marshal.dumps(value)
    except ValueError:
        return False
    return True


_SIMPLE_TYPES = frozenset((int, bool, type(None)))
_PLAIN_TYPES = frozenset((str, int, float, bool, type(None)))
_KEY_TYPES = frozenset((str, int))


def _is_inexact(values: Iterable[Any]) -> bool:
    """Return whether one of the values is or contains a ``Decimal``, or an enum as a key."""
    others = set(map(type, values)).difference(_PLAIN_TYPES)
    for kind in others:
        if issubclass(kind, Decimal):
            return True
    return bool(others) and any(_has_inexact_parts(value) for value in values if type(value) in others)


def _has_inexact_parts(value: Any) -> bool:
    if isinstance(value, dict):
        kinds = set(map(type, value)).difference(_KEY_TYPES)
        return any(issubclass(kind, Enum) for kind in kinds) or _is_inexact(value.values())
    return isinstance(value, (list, tuple)) and _is_inexact(value)


def _exact(value: Any) -> Any:
    if isinstance(value, Decimal):
        return _Number(value)
    if isinstance(value, dict):
        return {key.value if isinstance(key, Enum) else key: _exact(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(part) for part in value]
    return value


def _check(text: str) -> None:
    # A __json__ method may return anything.
    try:
        _check_json(text)
    except msgspec.DecodeError as error:
        if not _has_surrogate_escape(text):
            raise ValueError(str(error).removeprefix(_MALFORMED)) from None
        rawjson.check(text)


def check_args(text: bytes) -> None:
    """Check that a text is one JSON value in UTF-8.

    Raises:
        InvalidValue: it is not.
    """
    try:
        _check(text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"not a JSON value: {error}"[:_MAX_ERROR]) from None


_decode_exactly = msgspec.json.Decoder(float_hook=Decimal).decode


def decode_args_exactly(text: bytes) -> Any:
    """Return the value of validated JSON text, with a ``Decimal`` for each number that is not an integer.

    Raises:
        InvalidValue: as for `decode_args`.
    """
    try:
        return _decode_exactly(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return decode_args(text)  # lone surrogates


def decode_args(text: bytes | str) -> Any:
    """Return the value of validated JSON text: the ``args`` of a decoded message or payload.

    As ujson decodes it: the last of several equal keys counts, ``1e400`` is infinite, and some invalid texts pass.

    Raises:
        InvalidValue: it is not JSON, is nested too deeply, or has an integer of more digits than Python converts.
    """
    try:
        # ujson takes bytes in half the time, but also bytes that are not UTF-8.
        return ujson.loads(text if isinstance(text, str) or text.isascii() else text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"not a JSON value: {error}"[:_MAX_ERROR]) from None
