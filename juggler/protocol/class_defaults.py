"""Makes defaults of dataclasses visible to msgspec, which writes only what an instance itself has. PURE.

A default that was not overridden is an attribute of the class alone in two cases: if msgspec has made the instance, and
for a field with ``init=False``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct, inspect

_PLAIN = frozenset((str, int, float, bool, type(None), bytes))
_ITERABLE = (list, tuple, set, frozenset)
_MAX_CLASSES = 1000
"""Classes whose fields are remembered."""


def set_defaults(value: Any) -> None:
    """Give the dataclass instances in a value the attributes that only their classes have. Others see no difference.

    Raises:
        RecursionError: the value is circular, or nested too deeply.
    """
    kind: Any = type(value)
    if kind in _PLAIN:
        return
    if isinstance(value, dict):
        _each(value.values())
    elif isinstance(value, _ITERABLE):
        _each(value)
    elif (fields := _fields(kind)) is not None:
        if fields.defaults:
            attributes = value.__dict__
            for name in fields.defaults:
                if name not in attributes and hasattr(value, name):
                    attributes[name] = getattr(value, name)
        for name in fields.nested:
            set_defaults(getattr(value, name, None))


def _each(values: Iterable[Any]) -> None:
    for value in values:
        if type(value) not in _PLAIN:
            set_defaults(value)


@dataclasses.dataclass(frozen=True)
class _Fields:
    """Fields of a class: those that may be attributes of the class alone, and those that may hold dataclasses."""

    defaults: tuple[str, ...]
    nested: tuple[str, ...]


@lru_cache(_MAX_CLASSES)
def _fields(kind: type) -> _Fields | None:
    """Return the fields of a dataclass or Struct, None for any other class."""
    if dataclasses.is_dataclass(kind):
        found = dataclasses.fields(kind)
        has_dict = kind.__dictoffset__ != 0
        defaults = [each.name for each in found if has_dict and each.default is not dataclasses.MISSING]
        return _Fields(tuple(defaults), _nested(kind, [each.name for each in found]))
    if issubclass(kind, Struct):
        return _Fields((), _nested(kind, kind.__struct_fields__))
    return None


def _nested(kind: type, names: Iterable[str]) -> tuple[str, ...]:
    try:
        types: Mapping[str, inspect.Type] = {each.name: each.type for each in inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    except Exception:
        types = {}  # annotations that msgspec does not know: look at all values
    return tuple(name for name in names if name not in types or _may_hold(types[name], set()))


def _may_hold(type: inspect.Type, seen: set[int]) -> bool:
    """Return whether a value of a type may be or contain a dataclass instance."""
    if id(type) in seen:
        return False
    seen.add(id(type))
    if isinstance(type, (inspect.AnyType, inspect.CustomType, inspect.DataclassType)):
        return True
    parts: list[inspect.Type] = []
    for name in ("type", "item_type", "key_type", "value_type"):
        if isinstance(part := getattr(type, name, None), inspect.Type):
            parts.append(part)
    parts += getattr(type, "types", ())
    parts += getattr(type, "item_types", ())
    parts += [field.type for field in getattr(type, "fields", ())]
    return any(_may_hold(part, seen) for part in parts)
