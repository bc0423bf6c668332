"""What commands have in common that read the catalogue of registered functions in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from juggler.cli.redis_options import broker_at
from juggler.protocol import glob
from juggler.protocol.codec import decode_args

if TYPE_CHECKING:
    from msgspec import Raw

    from juggler.broker import ServedFunction

MAX_FUNCTIONS = 10_000
"""Maximum number of functions that are read, of which those with the first URIs are read."""

MAX_SCHEMAS = 64 * 2**20
"""Maximum size of all schemas that are read, in bytes."""


def registered_functions(patterns: Sequence[str], url: str | None, key_prefix: str) -> list[ServedFunction]:
    """Return the functions whose URI matches one of the patterns, or all if there are none. Monkey-patches the process.

    Raises:
        ConfigError: an option is invalid, or Redis is unreachable.
    """
    from juggler.process.patching import patch_all

    patch_all()
    with broker_at(url, key_prefix) as broker:
        functions = broker.functions(MAX_FUNCTIONS, MAX_SCHEMAS)
    return [function for function in functions if is_wanted(patterns, function.uri)]


def is_wanted(patterns: Iterable[str], uri: str) -> bool:
    """Return whether a URI matches one of the patterns, or there are none."""
    patterns = list(patterns)
    return not patterns or any(glob.matches(pattern, uri) for pattern in patterns)


def decoded_schema(schema: Raw | UnsetType) -> dict[str, Any] | None:
    """Return the schema of a function as objects; ``None`` if it has none."""
    found = None if schema is UNSET else decode_args(bytes(schema))
    return found if isinstance(found, dict) else None
