"""Import an object by its name ``MODULE:OBJECT``, for command lines and settings."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from operator import attrgetter
from typing import Any

from juggler.errors import ConfigError


def load_object(name: str, example: str) -> Any:
    """Import ``MODULE:OBJECT``. The current directory is searched first.

    Args:
        name: name of the object.
        example: an example of such a name, for the error.

    Raises:
        ConfigError: the name is malformed, the module cannot be imported, or the object does not exist.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"{name!r}: expected MODULE:OBJECT, for example {example}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except Exception as error:
        raise ConfigError(f"cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    finally:
        _enable_loggers()
    try:
        return attrgetter(path)(module)
    except AttributeError as error:
        raise ConfigError(f"{name!r}: {error}") from error


def _enable_loggers() -> None:
    """Enable the loggers of juggler that the module has disabled. `logging.config` disables all others by default."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "juggler" and isinstance(logger, logging.Logger):
            logger.disabled = False
