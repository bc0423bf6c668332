"""How a call's arguments become those of a Python function. Decided here and only here, once for each function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Thunk: TypeAlias = Callable[[Any], Any]
"""Takes the decoded JSON arguments as its one argument, and returns what JSON can carry."""


def bind(function: Thunk) -> Thunk:
    """Return what is to be called with the decoded arguments: the function itself."""
    return function
