"""The error tree is the one that the module draws, and codes are ones that may be sent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from juggler import errors
from juggler.errors import BrokerUnavailable, CapacityExceeded, CloseCode, JugglerError, NackCode

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
DRAWN = re.compile(r"^    (?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)", re.MULTILINE)


def drawn_tree() -> dict[str, str | None]:
    """Return each class's parent as the docstring draws it."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(line["indent"]) // 4
        parents[line["name"]] = path[depth - 1] if depth else None
        path[depth:] = [line["name"]]
    return parents


def test_the_drawn_tree_is_the_real_one() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, JugglerError)]
    real = {class_.__name__: class_.__bases__[0].__name__ for class_ in classes}

    assert drawn_tree() == {**real, "JugglerError": None}


def test_a_broker_error_becomes_a_nack_that_says_try_later() -> None:
    away, full = BrokerUnavailable("connection lost"), CapacityExceeded()

    assert (away.code, away.reason) == (NackCode.UNAVAILABLE, "connection lost")
    assert (full.code, full.reason) == (NackCode.UNAVAILABLE, "list capacity exceeded")


@pytest.mark.parametrize("code", CloseCode)
def test_close_codes_are_registered_or_private(code: CloseCode) -> None:
    assert 1000 <= code <= 1014 or 4000 <= code <= 4999  # RFC 6455 §7.4.2


@pytest.mark.parametrize("code", [*NackCode, *CloseCode])
def test_codes_are_documented(code: NackCode | CloseCode) -> None:
    assert f"| {code.value} | {code.name} |" in PROTOCOL
