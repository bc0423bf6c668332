"""The JSON Schemas of types: those of msgspec, completed by how juggler reads arguments and sends results. PURE.

msgspec describes the JSON that it reads itself. Arguments may also have decimals as numbers. Results have them so, and
have all fields that are always sent. Both get the formats and the keys that msgspec leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Flag
from inspect import Parameter
from typing import Any

import msgspec
from msgspec import inspect

from juggler.callee.enum_values import accepted_values
from juggler.callee.key_schemas import key_schema
from juggler.callee.text_patterns import DATE_TIME, DURATION, TIME, base64

REFS = "#/$defs/"
"""What references to definitions begin with."""

ANY = (Parameter.empty, Any, object)
"""Annotations of which nothing is known."""

_SIMPLE = frozenset((str, int, float, bool, list, dict))
_WITH_FIELDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)
SCALARS = ("boolean", "number", "string", "null")
"""Types of values that are neither array nor object."""

_BYTES = (inspect.BytesType, inspect.ByteArrayType, inspect.MemoryViewType)
_SETS = (inspect.SetType, inspect.FrozenSetType)


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
    completion.finish()
    return schemas, defs


class _Completion:
    """Completes schemas in place, along with the types that they were made from."""

    def __init__(self, defs: dict[str, Any], sent: bool) -> None:
        self._defs = defs
        self._sent = sent
        self._done: set[str] = set()
        self._tags: dict[str, str] = {}  # of structs, by the names of their definitions
        self._distinguished: set[str] = set()  # structs whose tags are needed

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
        elif isinstance(type, inspect.EnumType):
            self._enum(type, schema)
        elif isinstance(type, (inspect.DateTimeType, inspect.TimeType)):
            self._time(type, schema)
        elif isinstance(type, inspect.TimeDeltaType):
            # The format of this name has weeks, months and years, but no fractions and no sign.
            _use_pattern(schema, DURATION, "PT90S")
        elif isinstance(type, _BYTES):
            schema["pattern"] = base64(type.min_length or 0, type.max_length)
        elif isinstance(type, inspect.UnionType):
            self._union(type, schema)
        else:
            if isinstance(type, _SETS) and not self._sent:
                del schema["uniqueItems"]  # further ones of the same value are ignored
                schema.setdefault("items", {"type": list(SCALARS)})
            if isinstance(type, inspect.StructType) and _is_tagged(type) and type.tag_field is not None:
                self._tags[reference] = type.tag_field
            for part, inner in self._parts(type, schema):
                self.complete(part, inner)

    def finish(self) -> None:
        """Make tags optional in arguments, except for structs that a union distinguishes by them."""
        if not self._sent:
            for name in self._tags.keys() - self._distinguished:
                self._defs[name]["required"].remove(self._tags[name])

    def _enum(self, type: inspect.EnumType, schema: dict[str, Any]) -> None:
        if self._sent and not issubclass(type.cls, Flag):
            return  # results are members
        accepted = accepted_values(type.cls)
        if isinstance(accepted, list):
            if issubclass(type.cls, Flag):
                schema["enum"] = accepted
            return
        schema["type"] = "string" if accepted is str else "integer"
        if isinstance(accepted, range):
            schema.update(minimum=accepted.start, maximum=accepted.stop - 1)
        schema["examples"] = schema.pop("enum")

    def _time(self, type: inspect.DateTimeType | inspect.TimeType, schema: dict[str, Any]) -> None:
        is_date_time = isinstance(type, inspect.DateTimeType)
        if type.tz is False:
            _use_pattern(schema, *((DATE_TIME, "2026-01-31T12:00:00") if is_date_time else (TIME, "12:00:00")))
        else:
            # Without the validation of formats, which is optional, it does not refuse those without a time zone.
            schema.setdefault("format", "date-time" if is_date_time else "time")

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
        if len(structs) > 1:
            last = last if "discriminator" in schema else last[0]["anyOf"]
            self._distinguished.update(inner["$ref"].removeprefix(REFS) for inner in last[: len(structs)])
        for type, inner in zip(others + structs, members[: len(others)] + last, strict=False):
            self.complete(type, inner)

    def _parts(self, type: inspect.Type, schema: dict[str, Any]) -> Iterator[tuple[inspect.Type, Any]]:
        if isinstance(type, inspect.CollectionType) and "items" in schema:
            yield type.item_type, schema["items"]
        elif isinstance(type, inspect.TupleType):
            yield from zip(type.item_types, schema.get("prefixItems", ()), strict=False)
        elif isinstance(type, inspect.DictType):
            if keys := key_schema(type.key_type):
                schema["propertyNames"] = keys
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


def _use_pattern(schema: dict[str, Any], pattern: str, example: str) -> None:
    """Replace the format of a schema, which texts that are accepted do not have."""
    schema.pop("format", None)
    schema.setdefault("pattern", pattern)
    schema.setdefault("examples", [example])


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
