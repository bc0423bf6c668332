"""JSON Schemas (2020-12) of functions for the catalogue, made by msgspec from their annotations. PURE.

The schema of the arguments describes the JSON value that a caller passes, as `juggler.callee.binding.Binding` takes it:
an object with the parameters by name, an array with them by position, or the only argument itself.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Sequence
from inspect import Parameter, isgeneratorfunction
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from juggler.callee.docstrings import parse_docstring
from juggler.callee.type_schemas import REFS, SCALARS, schemas_of

MAX_SIZE = 16 * 1024
"""Maximum size of the schema of a function in bytes. The catalogue leaves out larger ones."""

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_STREAMS = (collections.abc.Generator, collections.abc.Iterator)
_ITERABLES = (*_STREAMS, collections.abc.Iterable)
_MAX_DEPTH = 100


class Described(NamedTuple):
    """A function as a caller sees it.

    Attributes:
        function: the function.
        parameters: its parameters, without the one for the caller; ``None`` if they are not known.
        returned: its return annotation.
        whole: whether the first parameter receives all arguments.
        hidden: names that cannot be passed as further keywords.
        doc: docstring.
    """

    function: Callable[..., Any]
    parameters: Sequence[Parameter] | None
    returned: Any
    whole: bool
    hidden: tuple[str, ...]
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
    schemas, defs = schemas_of([parameter.annotation for parameter in parameters], sent=False)
    by_name = {parameter.name: schema for parameter, schema in zip(parameters, schemas, strict=True)}
    doc = parse_docstring(described.doc)
    if described.whole:
        args = _whole(parameters, by_name)
    else:
        args = _each(described, parameters, by_name, defs)
        for name, schema in args["anyOf"][0]["properties"].items():
            if name in doc.parameters:
                schema.setdefault("description", doc.parameters[name])
    args = {"description": doc.text, **args} if doc.text else args
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
    hidden: tuple[str, ...], named: Sequence[Parameter], required: list[str], schemas: dict[str, Any], more: Any
) -> dict[str, Any]:
    properties = {parameter.name: _with_default(schemas[parameter.name], parameter.default) for parameter in named}
    found = {"type": "object", "properties": properties, "required": required, "additionalProperties": more}
    if hidden and more is not False:
        found["propertyNames"] = {"not": {"const": hidden[0]} if len(hidden) == 1 else {"enum": list(hidden)}}
    return found


def _array(items: list[Any], least: int, more: Any) -> dict[str, Any]:
    first = {"prefixItems": items} if items else {}
    return {"type": "array", **first, "items": more, "minItems": least}


def _with_default(schema: dict[str, Any], default: Any) -> dict[str, Any]:
    """Return a copy of a schema with a default, if it has one."""
    if default is Parameter.empty:
        return dict(schema)
    try:
        known = msgspec.json.decode(msgspec.json.encode(default))
    except Exception:
        return dict(schema)  # a default that JSON does not support
    return dict(schema) if known is None and default is not None else {**schema, "default": known}


def _scalar(schema: dict[str, Any], defs: dict[str, Any], depth: int = 0) -> dict[str, Any] | None:
    """Return the schema of those values that are neither array nor object; ``None`` if there are none."""
    if not schema:
        return {"type": list(SCALARS)}
    if depth < _MAX_DEPTH and "anyOf" in schema:
        found = [_scalar(each, defs, depth + 1) for each in schema["anyOf"]]
        parts = [each for each in found if each is not None]
        if parts == schema["anyOf"]:
            return schema
        return parts[0] if len(parts) == 1 else {"anyOf": parts} if parts else None
    target = defs.get(schema.get("$ref", "").removeprefix(REFS), schema)
    if target.get("type") in ("array", "object"):
        return None
    is_scalar = target.get("type") in (*SCALARS, "integer") or ("enum" in target and "type" not in target)
    return schema if is_scalar else {"type": list(SCALARS), "allOf": [schema]}


def _has_null(schema: dict[str, Any] | None) -> bool:
    if schema is None:
        return False
    parts = schema.get("anyOf", [])
    return schema.get("type") in ("null", list(SCALARS)) or None in schema.get("enum", ()) or any(map(_has_null, parts))


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
    (schema,), defs = schemas_of([annotation], sent=True)
    if not schema:
        return {}
    return {name: {**schema, "$defs": defs} if defs else schema}
