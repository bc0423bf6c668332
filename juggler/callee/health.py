"""Health of a callee, and its health file. `juggler.callee.health_server` serves it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from juggler.errors import ConfigError
from juggler.process.logline import Line
from juggler.process.metrics import Snapshot

log = logging.getLogger("juggler.callee")


class Status(NamedTuple):
    """Health and metrics of a callee.

    Attributes:
        unhealthy_reason: why it does not take calls; ``None`` if it is healthy.
        snapshot: its metrics.
    """

    unhealthy_reason: str | None
    snapshot: Snapshot


def touch(path: str | None, status: Status) -> None:
    """Update the time of the health file, if there is one, unless the callee is unhealthy."""
    if path is not None and not status.unhealthy_reason:
        try:
            Path(path).touch()
        except OSError as error:
            log.warning(Line("health: cannot write the health file", path=path, error=error))


def check_file(path: str | None) -> None:
    """Check that the health file can be written.

    Raises:
        ConfigError: it cannot.
    """
    if path is not None:
        try:
            Path(path).touch()
        except OSError as error:
            raise ConfigError(f"cannot write the health file {path!r}: {error.strerror}") from error
