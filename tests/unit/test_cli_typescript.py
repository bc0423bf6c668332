"""TypeScript types are made from JSON Schemas; the compiler itself is in tests/integration/test_typescript.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.cli.typescript import Function, types_of


def result(schema: Any) -> str:
    """Return the type of a result."""
    text = types_of([Function("f", "", {"result": schema})])
    return text.split("    result: ", 1)[1].removesuffix(";\n  };\n}\n")


@pytest.mark.parametrize(
    ("schema", "type"),
    [
        ({}, "any"),
        (True, "any"),
        (False, "never"),
        ({"type": "integer"}, "number"),
        ({"type": ["boolean", "null"]}, "boolean | null"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"anyOf": [{"type": "integer"}, {}]}, "any"),
        ({"enum": [1, "a", None, True]}, '1 | "a" | null | true'),
        ({"const": "a"}, '"a"'),
        ({"type": "array"}, "any[]"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "(string | null)[]"),
        ({"type": "array", "maxItems": 0}, "[]"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {}], "minItems": 1, "items": False}, "[string, any?]"),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "null"}}, "[null?, ...null[]]"),
        ({"type": "object"}, "{ [name: string]: any }"),
        ({"type": "object", "additionalProperties": {"type": "null"}}, "{ [name: string]: null }"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, "{ [name: string]: never }"),
        (
            {"type": "object", "properties": {"a": {}, "b c": {}, "é": {}}, "required": ["a"]},
            '{ a: any; "b c"?: any; "é"?: any }',
        ),
        ({"type": ["string", "null"], "allOf": [{"enum": ["a", None]}]}, '("a" | null) & (string | null)'),
        ({"$ref": "#/$defs/no"}, "any"),
        ({"type": "unknown"}, "any"),
    ],
)
def test_types_of_schemas(schema, type):
    assert result(schema) == type


def test_docs_and_constraints_become_comments():
    schema = {
        "args": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "n": {"type": "integer", "minimum": 1, "description": "How\nmany.", "default": "*/"}
                    },
                }
            ]
        }
    }
    text = types_of([Function("f", "Close */ and\n\nmore\x1b.", schema)])
    assert text.endswith(
        """\
export interface Functions {
  /**
   * Close *\\/ and
   *
   * more .
   */
  "f": {
    args: {
      /**
       * How
       * many.
       * @default "*\\/"
       * @minimum 1
       */
      n?: number;
    };
    result: any;
  };
}
"""
    )


def named(name: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}", "$defs": {name: content, **more}}


def declared(*functions: dict[str, Any]) -> list[str]:
    text = types_of(Function(f"f{number}", "", schema) for number, schema in enumerate(functions))
    return [line for line in text.splitlines() if line.startswith("export type")]


def test_definitions_are_shared_or_numbered():
    one, two, three = ({"type": "array", "maxItems": 0, "title": title} for title in "123")
    assert declared({"args": named("A", one)}, {"args": named("A", one), "result": named("A", one)}) == [
        "export type A = [];"
    ]
    # The names of arguments come first, even if another function has a result of that name.
    assert types_of(
        [Function("a", "", {"result": named("A", two)}), Function("b", "", {"args": named("A", one)})]
    ).splitlines()[2:] == [
        "export type A = [];",
        "",
        "export type AResult = [];",
        "",
        "export interface Functions {",
        '  "a": {',
        "    args: any;",
        "    result: AResult;",
        "  };",
        '  "b": {',
        "    args: A;",
        "    result: any;",
        "  };",
        "}",
    ]
    assert len(declared({"args": named("A", one)}, {"args": named("A", two)}, {"args": named("A", three)})) == 3


def test_definitions_that_differ_in_what_they_refer_to_are_not_the_same():
    first, second = (named("A", {"$ref": "#/$defs/B"}, B={"type": kind}) for kind in ("string", "null"))
    assert declared({"args": first}, {"args": second}) == [
        "export type A = B;",
        "export type A2 = B2;",
        "export type B = string;",
        "export type B2 = null;",
    ]


def test_recursive_definitions_and_long_chains():
    tree = {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
    assert declared({"args": named("Tree", tree)}) == ["export type Tree = Tree[];"]
    chain = {f"T{number}": {"type": "array", "items": {"$ref": f"#/$defs/T{number + 1}"}} for number in range(300)}
    assert len(declared({"args": {"$ref": "#/$defs/T0", "$defs": chain}})) == 300
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    assert result(deep).startswith("any[][]")


KEYS = (
    "type properties anyOf allOf enum const $ref $defs a items prefixItems minItems maxItems required "
    "additionalProperties description default"
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["object", "array", "#/$defs/a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["args", "result", "part", "stream", "whole"]), JSON))
def test_any_json_becomes_types(schema):
    text = types_of([Function("f", "", schema)])
    assert text.count("{") == text.count("}") or "{" in str(schema) or "}" in str(schema)
