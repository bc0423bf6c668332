"""Logging of commands: one line for each record on standard error, as text, key=value or JSON."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from juggler.process.logline import Line


def _add_fields(logger: Any, name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Turn the details of a `Line` into fields, for `structlog`."""
    message = event["_record"].msg
    if isinstance(message, Line):
        event.update(message.shown())
        event["event"] = message.event
    return event


_SHARED: list[Any] = [
    _add_fields,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

_ORDER = ["timestamp", "level", "logger", "event"]


def configure(level: str = "info", format: str = "text") -> None:
    """Send the records of all loggers to standard error.

    Args:
        level: lowest level to log: debug, info, warning or error.
        format: ``"text"``, ``"logfmt"`` or ``"json"``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(format))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def formatter(format: str) -> logging.Formatter:
    """Return a formatter for the standard library's loggers. See `configure`."""
    renderers: dict[str, list[Any]] = {
        # Plain tracebacks: those of rich fill pages and show the values of local variables.
        "text": [
            structlog.dev.ConsoleRenderer(
                colors=False,
                pad_event_to=0,
                pad_level=False,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ],
        "logfmt": [
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=_ORDER, drop_missing=True, bool_as_flag=False),
        ],
        "json": [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    }
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[remove_meta, *renderers[format]])
