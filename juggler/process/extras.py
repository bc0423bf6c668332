"""Packages that extras of juggler install: advice when one is missing. PURE."""

from __future__ import annotations

PACKAGES = frozenset(
    {
        "gevent",
        "geventwebsocket",
        "gunicorn",
        "hiredis",
        "prometheus_client",
        "prompt_toolkit",
        "redis",
        "rich",
    }
)
"""Importable names of the packages that the extras callee, server, backend and terminal add to the base."""


def advice(error: ModuleNotFoundError, extra: str) -> str | None:
    """Return the command that installs a missing package, or None if it is of no extra.

    Args:
        error: error of the import.
        extra: extra that has all the packages, or several, separated by commas.
    """
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        return None
    return f"{package} is not installed; run: pip install 'juggler[{extra}]'"
