"""Validate and split JSON without converting it: the strict, slow path for texts that msgspec refuses.

PURE. msgspec is twenty times faster, but refuses the escape of a lone surrogate (``"\\ud800"``), which is legal JSON
and which browsers send. The standard library's scanner finds where a value ends; its text is not changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

_skip_space = re.compile(r"[ \t\n\r]*").match


def _drop(_: Any) -> None:
    return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_int=_drop, parse_float=_drop, parse_constant=_refuse, object_pairs_hook=_drop)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]


def _after_space(text: str, at: int) -> int:
    match = _skip_space(text, at)
    return match.end() if match else at


def _after_value(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _scan(text, at)
    except StopIteration as error:
        raise ValueError(f"expected a value (character {error.value})") from None
    return value, end


def _after(expected: str, text: str, at: int) -> int:
    at = _after_space(text, at)
    if text[at : at + 1] != expected:
        raise ValueError(f"expected '{expected}' (character {at})")
    return at + 1


def check(text: str) -> None:
    """Check that a text is one JSON value.

    Raises:
        ValueError: it is not.
        RecursionError: it is nested too deeply.
    """
    _, end = _after_value(text, _after_space(text, 0))
    if _after_space(text, end) != len(text):
        raise ValueError(f"trailing characters (character {end})")


def members(text: str) -> dict[str, str]:
    """Return the texts of an object's members by name; the last one of members with the same name.

    Raises:
        ValueError: the text is not a JSON object.
        RecursionError: it is nested too deeply.
    """
    found: dict[str, str] = {}
    at = _after("{", text, 0)
    more = text[_after_space(text, at) :][:1] != "}"
    while more:
        at = _after('"', text, at) - 1
        name, at = _after_value(text, at)
        start = _after_space(text, _after(":", text, at))
        _, end = _after_value(text, start)
        found[name] = text[start:end]
        at = _after_space(text, end)
        more = text[at : at + 1] == ","
        at += more
    at = _after("}", text, at)
    if _after_space(text, at) != len(text):
        raise ValueError(f"trailing characters (character {at})")
    return found
