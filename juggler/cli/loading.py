"""Finds the server, or the WSGI application, that a command line names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from juggler.errors import ConfigError
from juggler.process.loading import load_object

if TYPE_CHECKING:
    from juggler.cli.config.load import Settings

_SERVER_GROUPS = ("redis", "server", "websocket", "debug")


def load_application(name: str, settings: Settings) -> Callable[..., Any]:
    """Import ``MODULE:OBJECT`` and return the WSGI application that it is, or that serves it.

    Args:
        name: of a `Server` or a WSGI application; the current directory is looked in first.
        settings: for what a server of one's own does not know itself: paths, origins.

    Raises:
        ConfigError: there is no such module or object, it is neither, or settings are given that it has to know itself.
    """
    from juggler.cli.config.build import make_application
    from juggler.server import Server

    found = load_object(name, "myapp:server")
    if isinstance(found, Server):
        _refuse(settings, _SERVER_GROUPS, f"{name} is a Server, and has its own")
        return make_application(settings, found)
    if callable(found) and not isinstance(found, type):
        _refuse(settings, (*_SERVER_GROUPS, "http", "listen.path"), f"{name} is a WSGI application, and has its own")
        return found  # type: ignore[no-any-return]
    raise ConfigError(f"{name!r}: expected a Server or a WSGI application, got {type(found).__name__}")


def _refuse(settings: Settings, groups: tuple[str, ...], why: str) -> None:
    if given := settings.given(groups):
        raise ConfigError(f"{', '.join(given)}: {why}")
