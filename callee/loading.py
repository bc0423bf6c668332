"""Finds the `Callee` that a command line names."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from operator import attrgetter

from callee.registry import Callee
from juggler.errors import ConfigError


def load(name: str) -> Callee:
    """Import ``MODULE:OBJECT`` and return it; the current directory is looked in first.

    Raises:
        ConfigError: there is no such module or object, it is no callee, or it has no function.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"{name!r}: expected MODULE:OBJECT, for example callee.demo:rpc")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except Exception as error:
        raise ConfigError(f"cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    try:
        found = attrgetter(path)(module)
    except AttributeError as error:
        raise ConfigError(f"{name!r}: {error}") from error
    if not isinstance(found, Callee):
        raise ConfigError(f"{name!r}: expected a callee.Callee, got {type(found).__name__}")
    if not found:
        raise ConfigError(f"{name!r}: no function is registered")
    return found
