"""The JSON Schemas of types: those of msgspec, completed by how juggler reads arguments and sends results. PURE.

msgspec describes the JSON that it reads itself. Arguments may also have decimals as numbers. Results have them so, and
have all fields that are always sent. Both get the formats and the keys that msgspec leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from inspect import Parameter
from typing import Any

import msgspec
from msgspec import inspect

REFS = "#/$defs/"
"""What references to definitions begin with."""

ANY = (Parameter.empty, Any, object)
"""Annotations of which nothing is known."""

_SIMPLE = frozenset((str, int, float, bool, list, dict))
_WITH_FIELDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)
_KEYS: dict[type[inspect.Type], dict[str, Any]] = {
    inspect.IntType: {"pattern": "^-?[0-9]+$"},
    inspect.UUIDType: {"format": "uuid"},
    inspect.DateType: {"format": "date"},
    inspect.DateTimeType: {"format": "date-time"},
}


def schemas_of(annotations: Sequence[Any], *, sent: bool) -> tuple[list[Any], dict[str, Any]]:
    """Return the schema of each type, ``{}`` for those without one, and the definitions that they refer to.

    Args:
        annotations: the types.
        sent: whether they are types of results instead of arguments.
    """
    wanted = [Any if annotation in ANY else annotation for annotation in annotations]
    try:
        return _components(wanted, sent)
    except Exception:
        known = [annotation if _is_known(annotation) else Any for annotation in wanted]
    try:
        return _components(known, sent)
    except Exception:
        return [{} for _ in wanted], {}  # two types of the same name


def contains(annotation: Any, kind: type[inspect.Type]) -> bool:
    """Return whether a type or one of its parts is of a kind. May raise if msgspec does not support the type."""
    if isinstance(annotation, type) and annotation in _SIMPLE:
        return False
    seen: set[int] = set()
    left: list[Any] = [inspect.type_info(annotation)]
    while left:
        each = left.pop()
        if isinstance(each, kind):
            return True
        if isinstance(each, (inspect.Type, inspect.Field)) and id(each) not in seen:
            seen.add(id(each))
            left += msgspec.structs.asdict(each).values()
        elif isinstance(each, tuple):
            left += each
    return False


def _is_known(annotation: Any) -> bool:
    try:
        _components([annotation], False)
    except Exception:
        return False
    return True


def _components(annotations: Sequence[Any], sent: bool) -> tuple[list[Any], dict[str, Any]]:
    found = msgspec.json.schema_components(annotations, ref_template=REFS + "{name}")
    schemas, defs = msgspec.json.decode(msgspec.json.encode(found))
    completion = _Completion(defs, sent)
    for annotation, schema in zip(annotations, schemas, strict=True):
        if not (isinstance(annotation, type) and annotation in _SIMPLE):
            completion.complete(inspect.type_info(annotation), schema)
    return schemas, defs


class _Completion:
    """Completes schemas in place, along with the types that they were made from."""

    def __init__(self, defs: dict[str, Any], sent: bool) -> None:
        self._defs = defs
        self._sent = sent
        self._done: set[str] = set()

    def complete(self, type: inspect.Type, schema: Any) -> None:
        type = _plain(type)
        reference = schema.get("$ref", "").removeprefix(REFS)
        if reference:
            if reference in self._done:
                return
            self._done.add(reference)
            schema = self._defs[reference]
        if isinstance(type, inspect.DecimalType):
            self._decimal(schema)
        elif isinstance(type, (inspect.DateTimeType, inspect.TimeType)):
            # Without the validation of formats, which is optional, it does not refuse those without a time zone.
            schema.setdefault("format", "date-time" if isinstance(type, inspect.DateTimeType) else "time")
        elif isinstance(type, inspect.UnionType):
            self._union(type, schema)
        else:
            for part, inner in self._parts(type, schema):
                self.complete(part, inner)

    def _decimal(self, schema: dict[str, Any]) -> None:
        if self._sent:
            schema["type"] = "number"
        else:
            del schema["type"], schema["format"]
            schema["anyOf"] = [{"type": "number"}, {"type": "string", "format": "decimal"}]

    def _union(self, union: inspect.UnionType, schema: dict[str, Any]) -> None:
        # msgspec puts structs after the others, in a schema of their own if there are several, and then null.
        types = [_plain(type) for type in union.types]
        structs = [type for type in types if _is_tagged(type)]
        others = [type for type in types if not _is_tagged(type) and not isinstance(type, inspect.NoneType)]
        members = schema["anyOf"]
        last = members[len(others) :]
        if len(structs) > 1 and "discriminator" not in schema:
            last = last[0]["anyOf"]
        for type, inner in zip(others + structs, members[: len(others)] + last, strict=False):
            self.complete(type, inner)

    def _parts(self, type: inspect.Type, schema: dict[str, Any]) -> Iterator[tuple[inspect.Type, Any]]:
        if isinstance(type, inspect.CollectionType) and "items" in schema:
            yield type.item_type, schema["items"]
        elif isinstance(type, inspect.TupleType):
            yield from zip(type.item_types, schema.get("prefixItems", ()), strict=False)
        elif isinstance(type, inspect.DictType):
            if keys := _keys(type.key_type):
                schema.setdefault("propertyNames", keys)
            if isinstance(schema.get("additionalProperties"), dict):
                yield type.value_type, schema["additionalProperties"]
        elif isinstance(type, _WITH_FIELDS):
            yield from self._fields(type, schema)

    def _fields(self, type: Any, schema: dict[str, Any]) -> Iterator[tuple[inspect.Type, Any]]:
        always = [each.encode_name for each in type.fields if each.required or not _may_be_absent(type, each)]
        if "prefixItems" in schema:
            items = schema["prefixItems"]
            inner = items[len(items) - len(type.fields) :]  # the first one may be a tag
            if self._sent:
                schema["minItems"] = len(items) - len(type.fields) + len(always)
        else:
            properties = schema["properties"]
            inner = [properties[each.encode_name] for each in type.fields]
            if self._sent:
                names = {each.encode_name for each in type.fields}
                schema["required"] = [each for each in schema["required"] if each not in names] + always
        yield from zip((each.type for each in type.fields), inner, strict=True)


def _plain(type: inspect.Type) -> inspect.Type:
    """Return a type without its metadata."""
    while isinstance(type, inspect.Metadata):
        type = type.type
    return type


def _is_tagged(type: inspect.Type) -> bool:
    """Return whether a type is a struct with a tag, if it is in a union of several."""
    return isinstance(type, inspect.StructType) and not type.array_like


def _may_be_absent(type: Any, field: inspect.Field) -> bool:
    """Return whether an optional field may be absent from a result."""
    is_unset = field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
    if isinstance(type, inspect.TypedDictType) or is_unset:
        return True
    return isinstance(type, inspect.StructType) and type.cls.__struct_config__.omit_defaults and not type.array_like


def _keys(type: inspect.Type) -> dict[str, Any]:
    """Return the schema of keys that are not any string; ``{}`` if msgspec has one, or there is none."""
    if isinstance(type, inspect.EnumType):
        return {"enum": [_text(member.value) for member in type.cls if isinstance(member, Enum)]}
    if isinstance(type, inspect.LiteralType):
        return {"enum": [_text(value) for value in type.values if value is not None]}
    return dict(_KEYS.get(type.__class__, {}))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
