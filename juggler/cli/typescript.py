"""TypeScript types of functions, made from the JSON Schemas of a catalogue. PURE.

Whatever a schema contains, the result is valid TypeScript: what is not understood becomes ``any``. Definitions that are
the same share a name; others of one name are numbered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_HEADER = """\
// Types of the registered functions, for juggler.js: new Client<Functions>("/ws"). Made by `juggler types`.
"""

_WIDTH = 100
_MAX_DEPTH = 40
_MAX_DOC = 2000
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TAGS = (
    *("format", "contentEncoding", "default", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
    *("multipleOf", "pattern", "minLength", "maxLength", "minItems", "maxItems"),
)
_SIMPLE = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}
_RESERVED = re.compile(
    "any|await|bigint|boolean|break|case|catch|class|const|continue|debugger|default|delete|do|else|enum|export|extends|false"
    "|finally|for|function|if|implements|import|in|instanceof|interface|let|never|new|null|number|object|package|private"
    "|protected|public|return|static|string|super|switch|symbol|this|throw|true|try|type|typeof|undefined|unknown|var|void"
    "|while|with|yield|Functions"
)
"""Names that types cannot have."""


class Function(NamedTuple):
    """A function of the catalogue.

    Attributes:
        uri: its URI.
        doc: docstring, or its beginning.
        schema: its JSON Schemas, see docs/callee.md; ``{}`` if it has none.
    """

    uri: str
    doc: str
    schema: Mapping[str, Any]


def types_of(functions: Iterable[Function]) -> str:
    """Return a module of types: an interface ``Functions`` by URI, and the named types that it uses."""
    names = _Names()
    functions = list(functions)
    # Types of arguments get the plain names, whichever function comes first.
    args = [_Types(names, function.schema.get("args")).arguments(function.schema) for function in functions]
    entries = [_entry(names, *each) for each in zip(functions, args, strict=True)]
    inside = "\n".join(_indented(entry) for entry in entries)
    interface = f"export interface Functions {{\n{inside}\n}}\n" if entries else "export interface Functions {}\n"
    return "\n".join([_HEADER, *names.declarations(), interface])


def _entry(names: _Names, function: Function, args: str) -> str:
    schema = function.schema
    members = {"args": args, "result": _Types(names, schema.get("result"), "Result").root()}
    if schema.get("stream") is True:
        members["part"] = _Types(names, schema.get("part"), "Result").root()
    lines = "\n".join(_indented(f"{name}: {type};") for name, type in members.items())
    return f"{_comment(function.doc, {})}{_quoted(function.uri)}: {{\n{lines}\n}};"


class _Names:
    """The named types of a module."""

    def __init__(self) -> None:
        self._by_content: dict[str, str] = {}
        self._waiting: list[tuple[str, _Types, Any]] = []
        self._taken: set[str] = set()

    def of(self, types: _Types, key: str) -> str:
        """Return the name of the type for a definition of a document."""
        content = _canonical(key, types.defs)
        name = self._by_content.get(content)
        if name is None:
            name = self._by_content[content] = self._free(_type_name(key), types.variant)
            self._taken.add(name)
            self._waiting.append((name, types, types.defs[key]))
        return name

    def declarations(self) -> list[str]:
        """Return the declarations, in alphabetical order."""
        texts = {}
        for name, types, definition in self._waiting:  # which grows: a declaration may use further types
            texts[name] = types.declaration(name, definition)
        return [texts[name] for name in sorted(texts)]

    def _free(self, name: str, variant: str) -> str:
        wanted = [name, name + variant, *(f"{name}{number}" for number in range(2, len(self._taken) + 3))]
        return next(each for each in wanted if each not in self._taken)


class _Types:
    """The types of one schema document, whose definitions belong to it alone.

    Attributes:
        defs: its definitions.
        variant: suffix for a definition whose name has another content.
    """

    def __init__(self, names: _Names, document: Any, variant: str = "") -> None:
        self._names = names
        self._document = {} if document is None else document
        self.variant = variant
        defs = _as_schema(document).get("$defs")
        self.defs: Mapping[str, Any] = defs if isinstance(defs, dict) else {}

    def root(self) -> str:
        return self.of(self._document)

    def arguments(self, function: Mapping[str, Any]) -> str:
        """Return the type of the arguments of a function; that of an array has the names of the parameters."""
        forms = _as_schema(self._document).get("anyOf")
        if function.get("whole") is True or not isinstance(forms, list) or not forms:
            return self.root()
        named = _as_schema(forms[0]).get("properties")
        labels = list(named) if isinstance(named, dict) else []
        return self._union(
            self._array(form, labels, 0) if isinstance(form, dict) and "prefixItems" in form else self.of(form)
            for form in forms
        )

    def declaration(self, name: str, schema: Any) -> str:
        comment = _comment(str(_as_schema(schema).get("description", "")), {})
        if isinstance(schema, dict) and schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
            members = self._members(schema, 0)
            body = "".join(f"{_indented(member)}\n" for member in members)
            return f"{comment}export interface {name} {{\n{body}}}\n"
        return f"{comment}export type {name} = {self.of(schema)};\n"

    def of(self, schema: Any, depth: int = 0) -> str:
        """Return the type of a schema."""
        if schema is False:
            return "never"
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return "any"
        found = [part for part in self._parts(schema, depth + 1) if part != "any"]
        if len(found) < 2:
            return found[0] if found else "any"
        return " & ".join(f"({part})" if _is_union(part) else part for part in found)

    def _parts(self, schema: Mapping[str, Any], depth: int) -> Iterator[str]:
        """Yield the types that a value has all at once."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            key = reference.removeprefix("#/$defs/")
            yield self._names.of(self, key) if key in self.defs else "any"
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                yield self._union(self.of(each, depth) for each in schema[key])
        if isinstance(schema.get("allOf"), list):
            for each in schema["allOf"]:
                yield self.of(each, depth)
        if isinstance(schema.get("enum"), list):
            yield self._union(map(_literal, schema["enum"]))
        elif "const" in schema:
            yield _literal(schema["const"])
        else:
            kinds = schema.get("type")
            kinds = kinds if isinstance(kinds, list) else [kinds]
            if kinds != [None]:
                yield self._union(self._of_kind(kind, schema, depth) for kind in kinds)

    def _of_kind(self, kind: Any, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "array":
            return self._array(schema, [], depth)
        if kind == "object":
            return self._object(schema, depth)
        return _SIMPLE.get(kind, "any") if isinstance(kind, str) else "any"

    def _array(self, schema: Mapping[str, Any], labels: list[str], depth: int) -> str:
        first = schema.get("prefixItems")
        others = schema.get("items", True)
        if not isinstance(first, list) or not first:
            return "[]" if others is False or schema.get("maxItems") == 0 else _array_of(self.of(others, depth))
        least = schema.get("minItems")
        least = least if isinstance(least, int) else 0
        names = labels[: len(first)] if len(labels) >= len(first) and all(map(str.isidentifier, labels)) else []
        items = []
        for index, each in enumerate(first):
            type = self.of(each, depth)
            optional = "" if index < least else "?"
            if names:
                items.append(f"{names[index]}{optional}: {type}")
            else:
                items.append(f"({type})?" if optional and not type.isidentifier() else f"{type}{optional}")
        if others is not False and schema.get("maxItems") != len(first):
            rest = _array_of(self.of(others, depth))
            items.append(f"...more: {rest}" if names else f"...{rest}")
        return f"[{', '.join(items)}]"

    def _object(self, schema: Mapping[str, Any], depth: int) -> str:
        members = self._members(schema, depth)
        if not members:
            more = schema.get("additionalProperties", True)
            is_closed = more is False and "properties" in schema
            return "{ [name: string]: never }" if is_closed else f"{{ [name: string]: {self.of(more, depth)} }}"
        line = "{ " + "; ".join(member.removesuffix(";") for member in members) + " }"
        if len(line) <= _WIDTH and "\n" not in line:
            return line
        return "{\n" + "\n".join(map(_indented, members)) + "\n}"

    def _members(self, schema: Mapping[str, Any], depth: int) -> list[str]:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return []
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        members, types = [], []
        for name, each in properties.items():
            types.append(self.of(each, depth))
            optional = "" if name in required else "?"
            members.append(f"{_documented(each)}{_property(name)}{optional}: {types[-1]};")
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            # The type of further members has to include those of all members.
            every = self._union([self.of(more, depth), *types, *(["undefined"] if len(required) < len(types) else [])])
            members.append(f"[name: string]: {every};")
        return members

    @staticmethod
    def _union(types: Iterable[str]) -> str:
        found: list[str] = []
        for type in types:
            if type == "any":
                return "any"
            found += [part for part in [type] if part not in found and part != "never"]
        return " | ".join(found) if found else "never"


# Text


def _as_schema(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _canonical(key: str, defs: Mapping[str, Any]) -> str:
    """Return text that is the same for definitions with the same content, whatever document they are in."""
    order = [key]
    seen = {key}
    for each in order:  # which grows
        for other in _references(defs[each]):
            if other in defs and other not in seen:
                seen.add(other)
                order.append(other)
    return json.dumps([order, [defs[each] for each in order]])


def _references(schema: Any) -> Iterator[str]:
    left = [schema]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            reference = each.get("$ref")
            if isinstance(reference, str):
                yield reference.removeprefix("#/$defs/")
            left += each.values()
        elif isinstance(each, list):
            left += each


def _type_name(key: str) -> str:
    """Return an identifier for the key of a definition: ``Box_int_`` stays, ``shop.models.Item`` becomes ``Item``."""
    name = "_".join(re.findall(r"\w+", key.rsplit(".", 1)[-1])) or "Type"
    if not name.isidentifier():
        name = f"_{name}"
    return f"{name}_" if _RESERVED.fullmatch(name) else name


def _property(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return json.dumps(value) if value is None or isinstance(value, (bool, int, float)) else "any"


def _is_union(type: str) -> bool:
    """Return whether a type has to be in parentheses before ``[]`` or ``&``; in doubt, it has."""
    return " | " in type or " & " in type


def _array_of(type: str) -> str:
    return f"({type})[]" if _is_union(type) else f"{type}[]"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else line for line in text.split("\n"))


def _documented(schema: Any) -> str:
    found = _as_schema(schema)
    tags = {key: json.dumps(found[key]) for key in _TAGS if found.get(key) is not None and "prefixItems" not in found}
    return _comment(str(found.get("description", "")), tags)


def _comment(doc: str, tags: Mapping[str, str]) -> str:
    """Return a TSDoc comment and a line break; empty if there is nothing to say."""
    lines = doc[:_MAX_DOC].strip().split("\n") if doc.strip() else []
    lines += [f"@{key} {value}" for key, value in tags.items() if len(value) <= _WIDTH]
    lines = [_CONTROLS.sub(" ", line).replace("*/", "*\\/").rstrip() for line in lines]
    if not lines:
        return ""
    if len(lines) == 1:
        return f"/** {lines[0]} */\n"
    return "/**\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"
