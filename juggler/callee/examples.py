"""Examples of arguments for the catalogue, made from the annotations and defaults of a function. PURE."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, inspect

MAX_LENGTH = 2000
"""Maximum length of an example in characters. Longer ones are tried with less nesting, then left out."""

_MAX_DEPTH = 8
_TEXT = "text"
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_ANY = (Parameter.empty, Any, object)


class _TooDeep(Exception):
    """A type contains itself, or is nested too deeply. An enclosing list, dict, union or optional field ends it."""


def example_of(parameters: Sequence[Parameter], whole: bool = False) -> str:
    """Return arguments that a function accepts, as JSON text for people to edit.

    They are an array; an object if there are parameters for keywords alone; for a single parameter its value, if that
    is neither. Defaults are shown as they are, but for ``None``, which shows nothing of the type.

    Args:
        parameters: parameters of the function.
        whole: whether the only parameter receives all arguments.

    Returns:
        The text; empty if the function takes no arguments, or no example can be made.
    """
    shown = [parameter for parameter in parameters if parameter.kind not in _VARIADIC][: 1 if whole else None]
    texts = (_text(shown, whole, depth) for depth in range(_MAX_DEPTH, 0, -1) if shown)
    return next((text for text in texts if text and len(text) <= MAX_LENGTH), "")


def _text(parameters: Sequence[Parameter], whole: bool, depth: int) -> str:
    try:
        values = {parameter.name: _Sampler(depth).of_parameter(parameter) for parameter in parameters}
        return json.dumps(_arranged(values, parameters, whole), ensure_ascii=False, allow_nan=False)
    except Exception:
        return ""  # a type without an example is no reason not to serve the function


def _arranged(values: dict[str, Any], parameters: Sequence[Parameter], whole: bool) -> Any:
    only = next(iter(values.values()))
    if whole:
        return only
    if any(parameter.kind is Parameter.KEYWORD_ONLY for parameter in parameters):
        return values
    return only if len(values) == 1 and not isinstance(only, (dict, list)) else list(values.values())


class _Sampler:
    """Makes a value for a type.

    Args:
        depth: maximum nesting.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._inside: list[type] = []

    def of_parameter(self, parameter: Parameter) -> Any:
        has_default = parameter.default is not Parameter.empty
        if has_default and parameter.default is not None and (known := _builtins(parameter.default)) is not None:
            return known
        annotation = parameter.annotation
        if annotation in _ANY:
            return None if has_default else _TEXT
        if get_origin(annotation) is Literal:
            return _first(get_args(annotation))  # in the order of the source, which msgspec does not keep
        try:
            return self._of(inspect.type_info(annotation))
        except _TooDeep:
            if has_default:
                return None
            raise

    def _of(self, type: inspect.Type) -> Any:
        make = _MAKERS.get(type.__class__)
        return None if make is None else make(self, type)

    def metadata(self, type: inspect.Metadata) -> Any:
        examples = (type.extra_json_schema or {}).get("examples")
        return _builtins(examples[0]) if examples else self._of(type.type)

    def union(self, type: inspect.UnionType) -> Any:
        for each in type.types:
            if not isinstance(each, inspect.NoneType):
                try:
                    return self._of(each)
                except _TooDeep:
                    continue
        if type.includes_none:
            return None
        raise _TooDeep

    def collection(self, type: inspect.CollectionType) -> list[Any]:
        if type.max_length == 0:
            return []
        try:
            return [self._of(type.item_type)] * max(1, type.min_length or 0)
        except _TooDeep:
            if type.min_length:
                raise
            return []

    def dict_of(self, type: inspect.DictType) -> dict[str, Any]:
        if type.max_length == 0:
            return {}
        try:
            key, value = self._of(type.key_type), self._of(type.value_type)
        except _TooDeep:
            return {}
        return {key if isinstance(key, str) else json.dumps(key): value}

    def tuple_of(self, type: inspect.TupleType) -> list[Any]:
        return [self._of(each) for each in type.item_types]

    def named_tuple(self, type: inspect.NamedTupleType) -> list[Any]:
        return list(self._fields(type.cls, type.fields).values())

    def object_of(self, type: inspect.TypedDictType | inspect.DataclassType) -> dict[str, Any]:
        return self._fields(type.cls, type.fields)

    def struct(self, type: inspect.StructType) -> Any:
        tag = {} if type.tag_field is None else {type.tag_field: type.tag}
        values = tag | self._fields(type.cls, type.fields)
        return list(values.values()) if type.array_like else values

    def _fields(self, cls: type, fields: Iterable[inspect.Field]) -> dict[str, Any]:
        if cls in self._inside or len(self._inside) >= self._depth:
            raise _TooDeep
        self._inside.append(cls)
        try:
            found = {}
            for field in fields:
                try:
                    found[field.encode_name] = self._of_field(field)
                except _TooDeep:
                    if field.required:
                        raise
            return found
        finally:
            self._inside.pop()

    def _of_field(self, field: inspect.Field) -> Any:
        if field.default is not NODEFAULT and field.default is not None:
            known = _builtins(field.default)
            if known is not None:
                return known
        return self._of(field.type)


def _builtins(value: Any) -> Any:
    """Return a value as JSON has it, None if it cannot be."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except Exception:
        return None


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _number(type: inspect.IntType | inspect.FloatType, usual: float, step: float) -> float:
    """Return a number within the bounds of a type, the usual one if it is."""
    lowest = type.ge if type.ge is not None else None if type.gt is None else type.gt + step
    highest = type.le if type.le is not None else None if type.lt is None else type.lt - step
    if lowest is not None and highest is not None and lowest > highest:  # between 0 and 1, for example
        lowest = highest = (lowest + highest) / 2
    chosen = usual
    if lowest is not None:
        chosen = max(chosen, lowest)
    if highest is not None:
        chosen = min(chosen, highest)
    if type.multiple_of:
        multiple = math.ceil(chosen / type.multiple_of) * type.multiple_of
        chosen = multiple if highest is None or multiple <= highest else multiple - type.multiple_of
    return chosen


def _integer(sampler: _Sampler, type: inspect.IntType) -> int:
    return int(_number(type, 1, 1))


def _float(sampler: _Sampler, type: inspect.FloatType) -> float:
    return _number(type, 1.5, 1)


def _string(sampler: _Sampler, type: inspect.StrType) -> str:
    return _TEXT.ljust(type.min_length or 0, "x")[: type.max_length]


def _constant(value: Any) -> Callable[[_Sampler, Any], Any]:
    return lambda sampler, type: value


def _zoned(text: str) -> Callable[[_Sampler, Any], str]:
    return lambda sampler, type: text if type.tz is False else f"{text}Z"


_MAKERS: dict[type[inspect.Type], Callable[[_Sampler, Any], Any]] = {
    inspect.Metadata: _Sampler.metadata,
    inspect.AnyType: _constant(_TEXT),
    inspect.RawType: _constant(_TEXT),
    inspect.BoolType: _constant(True),
    inspect.IntType: _integer,
    inspect.FloatType: _float,
    inspect.StrType: _string,
    inspect.BytesType: _constant("dGV4dA=="),
    inspect.ByteArrayType: _constant("dGV4dA=="),
    inspect.MemoryViewType: _constant("dGV4dA=="),
    inspect.DateTimeType: _zoned("2026-01-31T12:00:00"),
    inspect.TimeType: _zoned("12:00:00"),
    inspect.DateType: _constant("2026-01-31"),
    inspect.TimeDeltaType: _constant("PT90S"),
    inspect.UUIDType: _constant("00000000-0000-4000-8000-000000000000"),
    inspect.DecimalType: _constant(1.5),
    inspect.EnumType: lambda sampler, type: _builtins(next(iter(type.cls.__members__.values()))),
    inspect.LiteralType: lambda sampler, type: _first(type.values),
    inspect.UnionType: _Sampler.union,
    inspect.ListType: _Sampler.collection,
    inspect.SetType: _Sampler.collection,
    inspect.FrozenSetType: _Sampler.collection,
    inspect.VarTupleType: _Sampler.collection,
    inspect.TupleType: _Sampler.tuple_of,
    inspect.DictType: _Sampler.dict_of,
    inspect.NamedTupleType: _Sampler.named_tuple,
    inspect.TypedDictType: _Sampler.object_of,
    inspect.DataclassType: _Sampler.object_of,
    inspect.StructType: _Sampler.struct,
}
"""How to make a value for each kind of type. Others, NoneType among them, have null."""
