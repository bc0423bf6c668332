"""Finds the `Callee` that a command line names."""

from __future__ import annotations

from juggler.callee.registry import Callee
from juggler.errors import ConfigError
from juggler.process.loading import load_object


def load(name: str) -> Callee:
    """Import ``MODULE:OBJECT`` and return it; the current directory is looked in first.

    Raises:
        ConfigError: there is no such module or object, it is no callee, or it has no function, or one that cannot be
            called.
    """
    found = load_object(name, "callee.demo:rpc")
    if not isinstance(found, Callee):
        raise ConfigError(f"{name!r}: expected a callee.Callee, got {type(found).__name__}")
    if not found:
        raise ConfigError(f"{name!r}: no function is registered")
    found.check()
    return found
