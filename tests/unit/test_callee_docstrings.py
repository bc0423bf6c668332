"""Docstrings in the styles of Google and Sphinx describe parameters."""

from __future__ import annotations

from inspect import cleandoc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.callee.docstrings import MAX_LENGTH, parse_docstring

GOOGLE = """Order an article.

    It arrives tomorrow: perhaps.

    Args:
        name: name of the article,
            as in the shop: unchanged
        count (int, optional): how many

        *more: further names
        **options: anything else
    Returns:
        number: of the order
"""
SPHINX = """Order an article.

    :param name: name of the article,
        as in the shop
    :param int count: how many
    :type count: int
    :returns: number of the order
"""
ELSEWHERE = """Print something like this.

    Example:
        name: tea

    Then go on.
        count: no parameter
"""


@pytest.mark.parametrize(
    ("doc", "text", "parameters"),
    [
        (
            GOOGLE,
            "Order an article.\n\nIt arrives tomorrow: perhaps.",
            {
                "name": "name of the article, as in the shop: unchanged",
                "count": "how many",
                "more": "further names",
                "options": "anything else",
            },
        ),
        (SPHINX, "Order an article.", {"name": "name of the article, as in the shop", "count": "how many"}),
        (ELSEWHERE, "Print something like this.", {}),
        ("\n    Args:\n        a:\n        b: 2", "", {"b": "2"}),
        ("\nArgs:\n    a:\n        text\n    b: 2\n\nReturns:\n    c: d", "", {"a": "text", "b": "2"}),
        ("", "", {}),
        ("x" * 600 + "\nArgs:\n  a: " + "y" * 600, "x" * MAX_LENGTH, {"a": "y" * MAX_LENGTH}),
    ],
)
def test_parameters_are_described(doc, text, parameters):
    assert parse_docstring(cleandoc(doc)) == (text, parameters)


@given(
    st.lists(st.sampled_from(["Args:", "  a: b", "    c", "", ":param x: y", "Returns:", "text", "\ta (", ":"])).map(
        "\n".join
    )
)
def test_no_docstring_is_too_odd(doc):
    found = parse_docstring(doc)
    assert all(found.parameters.values())
    assert len(found.text) <= len(doc.expandtabs())
