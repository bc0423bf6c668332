"""The JSON Schemas of the keys of dicts: texts, from which msgspec reads numbers, dates and others. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import inspect

from juggler.callee.enum_values import accepted_values
from juggler.callee.text_patterns import DATE_TIME, DURATION, INTEGER, NATURAL, NUMBER, POSITIVE, TIME, base64

_NEVER: dict[str, Any] = {"not": {}}
_MOST_LISTED = 256


def key_schema(kind: inspect.Type) -> dict[str, Any]:
    """Return the schema of the keys of a dict: ``{}`` if they may be any text; if no text will do, that of nothing."""
    kind = _plain(kind)
    if isinstance(kind, inspect.UnionType):
        return _union([_plain(each) for each in kind.types])
    make = _MAKERS.get(type(kind))
    return _NEVER if make is None else make(kind)


def _plain(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _union(kinds: list[inspect.Type]) -> dict[str, Any]:
    # If it may be text, msgspec reads nothing else.
    found = [key_schema(each) for each in kinds if isinstance(each, inspect.StrType)] or list(map(key_schema, kinds))
    found = [each for each in found if each != _NEVER]
    return {} if {} in found else found[0] if len(found) == 1 else {"anyOf": found} if found else _NEVER


def _any(kind: inspect.Type) -> dict[str, Any]:
    return {}


def _string(kind: inspect.StrType) -> dict[str, Any]:
    limits = {"pattern": kind.pattern, "minLength": kind.min_length, "maxLength": kind.max_length}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _integer(kind: inspect.IntType) -> dict[str, Any]:
    low = kind.ge if kind.ge is not None else None if kind.gt is None else kind.gt + 1
    high = kind.le if kind.le is not None else None if kind.lt is None else kind.lt - 1
    if low is None or high is None or high - low >= _MOST_LISTED:
        return {"pattern": INTEGER if low is None or low < 0 else NATURAL if low == 0 else POSITIVE}
    return _listed(value for value in range(low, high + 1) if not kind.multiple_of or value % kind.multiple_of == 0)


def _enum(kind: inspect.EnumType) -> dict[str, Any]:
    accepted = accepted_values(kind.cls)
    if accepted is str:
        return {}
    if isinstance(accepted, type) or len(accepted) > _MOST_LISTED:
        return {"pattern": INTEGER}
    return _listed(accepted)


def _listed(values: Iterable[Any]) -> dict[str, Any]:
    texts = dict.fromkeys(str(value) for value in values if value is not None)
    return {"enum": [*texts, *(["-0"] if "0" in texts else [])]}


def _zoned(format: str, pattern: str) -> Any:
    return lambda kind: {"pattern": pattern} if kind.tz is False else {"format": format}


_MAKERS: dict[type[inspect.Type], Any] = {
    inspect.AnyType: _any,
    inspect.StrType: _string,
    inspect.IntType: _integer,
    inspect.FloatType: lambda kind: {"pattern": NUMBER},
    inspect.DecimalType: lambda kind: {"format": "decimal"},
    inspect.EnumType: _enum,
    inspect.LiteralType: lambda kind: _listed(kind.values),
    inspect.UUIDType: lambda kind: {"format": "uuid"},
    inspect.DateType: lambda kind: {"format": "date"},
    inspect.DateTimeType: _zoned("date-time", DATE_TIME),
    inspect.TimeType: _zoned("time", TIME),
    inspect.TimeDeltaType: lambda kind: {"pattern": DURATION},
    inspect.BytesType: lambda kind: {"pattern": base64(kind.min_length or 0, kind.max_length)},
}
"""What the keys of each type are. There are none of other types, such as bool and tuple."""
