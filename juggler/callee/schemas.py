"""JSON Schemas (2020-12) of functions for the catalogue, made by msgspec from their annotations. PURE.

The schema of the arguments describes the JSON value that a caller passes, as `juggler.callee.binding.Binding` takes it:
an object with the parameters by name, an array with them by position, or the only argument itself.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, isgeneratorfunction
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import inspect

MAX_SIZE = 16 * 1024
"""Maximum size of the schema of a function in bytes. The catalogue leaves out larger ones."""

_REFS = "#/$defs/{name}"
_ANY = (Parameter.empty, Any, object)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_STREAMS = (collections.abc.Generator, collections.abc.Iterator)
_ITERABLES = (*_STREAMS, collections.abc.Iterable)
_SCALARS = ("boolean", "number", "string", "null")
_SIMPLE = frozenset((str, int, float, bool, list, dict))
_MAX_DEPTH = 100


class Described(NamedTuple):
    """A function as a caller sees it.

    Attributes:
        function: the function.
        parameters: its parameters, without the one for the caller; ``None`` if they are not known.
        returned: its return annotation.
        whole: whether the first parameter receives all arguments.
        hidden: name that cannot be passed as a further keyword; empty for none.
        doc: docstring.
    """

    function: Callable[..., Any]
    parameters: Sequence[Parameter] | None
    returned: Any
    whole: bool
    hidden: str
    doc: str


def schema_of(described: Described) -> bytes:
    """Return the schemas of a function as JSON text; empty if there is nothing to say, or the text is too large.

    Returns:
        An object with ``args``, the schema of the arguments; ``whole``, true if they are one value; ``result``, absent
        without an annotation; for a generator ``stream``, which is true, and ``part``, absent likewise.
    """
    found: dict[str, Any] = _results(described)
    if described.parameters is not None:
        whole = {"whole": True} if described.whole else {}
        found = {"args": _arguments(described, described.parameters), **whole, **found}
    text = msgspec.json.encode(found) if found else b""
    return text if len(text) <= MAX_SIZE else b""


# Arguments


def _arguments(described: Described, parameters: Sequence[Parameter]) -> dict[str, Any]:
    schemas, defs = _schemas_of([parameter.annotation for parameter in parameters], _with_numbers)
    by_name = {parameter.name: schema for parameter, schema in zip(parameters, schemas, strict=True)}
    args = _whole(parameters, by_name) if described.whole else _each(described, parameters, by_name, defs)
    args = {"description": described.doc, **args} if described.doc else args
    return {**args, "$defs": defs} if defs else args


def _whole(parameters: Sequence[Parameter], schemas: dict[str, Any]) -> dict[str, Any]:
    first = parameters[0]
    return {} if first.kind in _VARIADIC else dict(schemas[first.name])


def _each(
    described: Described, parameters: Sequence[Parameter], schemas: dict[str, Any], defs: dict[str, Any]
) -> dict[str, Any]:
    """Return the schema of arguments: the first of ``anyOf`` is always the object with the parameters by name."""
    named = [parameter for parameter in parameters if parameter.kind not in _VARIADIC]
    positional = [parameter for parameter in named if parameter.kind in _POSITIONAL]
    required = [parameter.name for parameter in named if parameter.default is Parameter.empty]
    more = {parameter.kind: schemas[parameter.name] for parameter in parameters if parameter.kind in _VARIADIC}
    least = sum(parameter.name in required for parameter in positional)
    forms = [_object(described.hidden, named, required, schemas, more.get(Parameter.VAR_KEYWORD, False))]
    others = more.get(Parameter.VAR_POSITIONAL, False)
    if len(required) == least:
        forms.append(_array([schemas[parameter.name] for parameter in positional], least, others))
    if len(required) <= (1 if positional and least else 0):
        only = schemas[positional[0].name] if positional else others
        alone = _scalar(only, defs) if only is not False else None
        forms += [] if alone is None else [alone]
        if not required and not _has_null(alone):
            forms.append({"type": "null"})
    return {"anyOf": forms}


def _object(
    hidden: str, named: Sequence[Parameter], required: list[str], schemas: dict[str, Any], more: Any
) -> dict[str, Any]:
    properties = {parameter.name: _with_default(schemas[parameter.name], parameter.default) for parameter in named}
    found = {"type": "object", "properties": properties, "required": required, "additionalProperties": more}
    if hidden and more is not False:
        found["propertyNames"] = {"not": {"const": hidden}}
    return found


def _array(items: list[Any], least: int, more: Any) -> dict[str, Any]:
    first = {"prefixItems": items} if items else {}
    return {"type": "array", **first, "items": more, "minItems": least}


def _with_default(schema: dict[str, Any], default: Any) -> dict[str, Any]:
    if default is Parameter.empty:
        return schema
    try:
        known = msgspec.json.decode(msgspec.json.encode(default))
    except Exception:
        return schema  # a default that JSON does not support
    return schema if known is None and default is not None else {**schema, "default": known}


def _scalar(schema: dict[str, Any], defs: dict[str, Any], depth: int = 0) -> dict[str, Any] | None:
    """Return the schema of those values that are neither array nor object; ``None`` if there are none."""
    if not schema:
        return {"type": list(_SCALARS)}
    if depth < _MAX_DEPTH and "anyOf" in schema:
        parts = [found for each in schema["anyOf"] if (found := _scalar(each, defs, depth + 1)) is not None]
        if len(parts) == len(schema["anyOf"]):
            return schema
        return parts[0] if len(parts) == 1 else {"anyOf": parts} if parts else None
    target = defs.get(schema.get("$ref", "").removeprefix("#/$defs/"), schema)
    if target.get("type") in ("array", "object"):
        return None
    is_scalar = target.get("type") in (*_SCALARS, "integer") or ("enum" in target and "type" not in target)
    return schema if is_scalar else {"type": list(_SCALARS), "allOf": [schema]}


def _has_null(schema: dict[str, Any] | None) -> bool:
    if schema is None:
        return False
    parts = schema.get("anyOf", [])
    return (
        schema.get("type") in ("null", list(_SCALARS)) or None in schema.get("enum", ()) or any(map(_has_null, parts))
    )


# Results


def _results(described: Described) -> dict[str, Any]:
    returned = described.returned
    function = described.function
    is_generator = isgeneratorfunction(function) or isgeneratorfunction(type(function).__call__)
    if not is_generator and get_origin(returned) not in _STREAMS:
        return _one("result", returned)
    if get_origin(returned) not in _ITERABLES:
        return {"stream": True}
    part, *others = get_args(returned)
    result = others[-1] if len(others) == 2 else None
    return {**_one("result", result), "stream": True, **_one("part", part)}


def _one(name: str, annotation: Any) -> dict[str, Any]:
    (schema,), defs = _schemas_of([annotation], _as_numbers)
    if not schema:
        return {}
    if defs:
        _require_sent(annotation, defs)
    return {name: {**schema, "$defs": defs} if defs else schema}


def _require_sent(annotation: Any, defs: dict[str, Any]) -> None:
    """Require the fields that are always sent: all, unless they may be unset or their defaults are omitted."""
    by_title: dict[str, list[Any]] = {}
    for each in _parts_of(annotation):
        if isinstance(each, (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)):
            by_title.setdefault(each.cls.__name__, []).append(each)
    for definition in defs.values():
        found = by_title.get(definition.get("title", ""), [])
        if len(found) == 1 and not _omits_defaults(found[0].cls):
            sent = [each.encode_name for each in found[0].fields if each.default is not msgspec.UNSET]
            if "properties" in definition:
                tags = [name for name in definition.get("required", []) if name not in sent]
                definition["required"] = tags + sent
            elif "prefixItems" in definition:
                definition["minItems"] = len(sent)


def _omits_defaults(cls: type) -> bool:
    return issubclass(cls, msgspec.Struct) and cls.__struct_config__.omit_defaults


# Types


def _schemas_of(annotations: Sequence[Any], mend: Callable[[Any], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the schema of each type, ``{}`` for those without one, and the definitions that they refer to."""
    wanted = [Any if annotation in _ANY else annotation for annotation in annotations]
    try:
        return _components(wanted, mend)
    except Exception:
        known = [annotation if _is_known(annotation) else Any for annotation in wanted]
    try:
        return _components(known, mend)
    except Exception:
        return [{} for _ in wanted], {}  # two types of the same name


def _components(annotations: Sequence[Any], mend: Callable[[Any], Any]) -> tuple[list[Any], dict[str, Any]]:
    schemas, defs = msgspec.json.schema_components(annotations, ref_template=_REFS)
    text = msgspec.json.encode((schemas, defs))
    found, found_defs = msgspec.json.decode(text)
    if b'"decimal"' in text:
        found, found_defs = mend(found), mend(found_defs)
    return list(found), found_defs


def _is_known(annotation: Any) -> bool:
    try:
        _components([annotation], lambda schema: schema)
    except Exception:
        return False
    return True


def contains(annotation: Any, kind: type[inspect.Type]) -> bool:
    """Return whether a type or one of its parts is of a kind. May raise if msgspec does not support the type."""
    if isinstance(annotation, type) and annotation in _SIMPLE:
        return False
    return any(isinstance(each, kind) for each in _parts_of(annotation))


def _parts_of(annotation: Any) -> Iterator[inspect.Type | inspect.Field]:
    seen: set[int] = set()
    left: list[Any] = [inspect.type_info(annotation)]
    while left:
        each = left.pop()
        if isinstance(each, (inspect.Type, inspect.Field)) and id(each) not in seen:
            seen.add(id(each))
            left += msgspec.structs.asdict(each).values()
            yield each
        elif isinstance(each, tuple):
            left += each


def _replaced(schema: Any, decimal: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(schema, list):
        return [_replaced(each, decimal) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal" and schema.get("type") == "string":
        return decimal(schema)
    return {key: _replaced(each, decimal) for key, each in schema.items()}


def _with_numbers(schema: Any) -> Any:
    """Let decimals be numbers, too: arguments may be either."""

    def either(text: dict[str, Any]) -> dict[str, Any]:
        others = {key: value for key, value in text.items() if key not in ("type", "format")}
        return {"anyOf": [{"type": "number"}, {"type": "string", "format": "decimal"}], **others}

    return _replaced(schema, either)


def _as_numbers(schema: Any) -> Any:
    """Make decimals numbers: results are sent so."""
    return _replaced(schema, lambda text: {**text, "type": "number"})
