"""Validate values against the JSON Schemas of functions."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import jsonschema_rs


def validator(document: Any, *, formats: bool = True) -> Any:
    """Check a schema and return its validator; ``formats``: whether it validates formats, ``decimal`` included."""
    jsonschema_rs.meta.validate(document)
    return jsonschema_rs.Draft202012Validator(document, validate_formats=formats, formats={"decimal": _is_decimal})


def _is_decimal(value: str) -> bool:
    try:
        Decimal(value)
    except ArithmeticError:
        return False
    return True
