"""Register classes of messages of your own, as with the Go package's ``message.Register``. PURE.

Their numbers are from 257 to 511: those up to 255 belong to juggler, and 256 to a type that clients use themselves.
Register at import, in every program that sends or reads the type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from juggler.protocol.messages import CustomType, Message, MessageType

M = TypeVar("M", bound=type[Message])

FIRST, LAST = MessageType.CUSTOM + 1, 511
"""Range of the numbers of custom types."""

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_TAKEN = frozenset({*MessageType.__members__, "EXP"})

_by_number: dict[int, type[Message]] = {}


def register(
    name: str, number: int | None = None, direction: Literal["request", "response", "local"] = "local"
) -> Callable[[M], M]:
    """Return a decorator that registers a class of messages and sets its ``type``.

    The payload of such a message is an object with the fields of the class, see ``msgspec.Struct``, without ``uuid``.

    Args:
        name: name of the type: capital letters, digits and ``_``. ``Juggler-Allowed-Messages`` can name a request.
        number: ``meta.type`` of its messages. Default: the next free number, which depends on the order of
            registrations: name a number for messages that are sent.
        direction: who sends it: clients (``"request"``), servers (``"response"``), or neither: ``"local"`` messages
            pass the handlers of a server and are never sent.

    Raises:
        ValueError: the name or number is invalid or taken, or the class is registered already or has a field that JSON
            cannot represent.
    """
    if direction not in ("request", "response", "local"):
        raise ValueError(f"direction: expected 'request', 'response' or 'local', got {direction!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"name: expected up to 32 capital letters, digits and _, got {name!r}")
    if name in _TAKEN or name in {each.type.name for each in _by_number.values()}:
        raise ValueError(f"name: {name} is registered already")
    if number is None:
        number = next((free for free in range(FIRST, LAST + 1) if free not in _by_number), None)
        if number is None:
            raise ValueError(f"number: all types from {FIRST} to {LAST} are registered already")
    if isinstance(number, bool) or not isinstance(number, int) or not FIRST <= number <= LAST:
        raise ValueError(f"number: expected {FIRST} to {LAST}, got {number!r}")
    if number in _by_number:
        raise ValueError(f"number: {number} is registered already, as {_by_number[number].type.name}")
    type_ = CustomType(number, name, direction)

    def decorate(cls: M) -> M:
        if not issubclass(cls, Message) or isinstance(getattr(cls, "type", None), (MessageType, CustomType)):
            raise ValueError(f"{cls.__name__}: expected a subclass of Message that has no type yet")
        try:
            msgspec.json.Decoder(cls)
        except (TypeError, NameError) as error:
            raise ValueError(f"{cls.__name__}: expected fields that JSON can represent: {error}") from error
        if type_ in _by_number:
            raise ValueError(f"number: {type_} is registered already, as {_by_number[type_].type.name}")
        cls.type = type_
        _by_number[int(type_)] = cls
        return cls

    return decorate


def unregister(cls: type[Message]) -> None:
    """Undo a registration, for tests. Connections that exist may still send requests of this type.

    Raises:
        ValueError: the class is not registered.
    """
    if _by_number.get(getattr(cls, "type", 0)) is not cls:
        raise ValueError(f"{cls.__name__}: not registered")
    del _by_number[cls.type]
    del cls.type


def registered(number: int) -> type[Message] | None:
    """Return the class that is registered for a number; ``None`` if there is none."""
    return _by_number.get(number)


def registered_types() -> list[CustomType]:
    """Return all registered types."""
    return [each.type for each in _by_number.values() if isinstance(each.type, CustomType)]
