"""Logging of commands: one line for each record on standard error, as text, key=value or JSON."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from juggler.process.logline import Line, indented, printable, quoted
from juggler.process.tracing import current_trace, log_fields


def _add_fields(logger: Any, name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Turn the details of a `Line` into fields, for `structlog`."""
    message = event["_record"].msg
    if isinstance(message, Line):
        event.update(message.shown())
        event["event"] = message.event
    return event


def _add_trace(logger: Any, name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Add the identifiers of the current span of OpenTelemetry, unless the record has others."""
    return log_fields(current_trace()) | event


_SHARED: list[Any] = [
    _add_fields,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    _add_trace,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

_ORDER = ("timestamp", "level", "logger", "event")
_BLOCKS = ("exception", "stack_info")


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
    renderer: Any = {"text": _text, "logfmt": _logfmt, "json": structlog.processors.JSONRenderer()}[format]
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED, processors=[remove_meta, structlog.processors.format_exc_info, renderer]
    )


def _text(logger: Any, name: str, event: dict[str, Any]) -> str:
    """Render a record for people. Its traceback is indented: text in it cannot pass for another record."""
    blocks = [event.pop(each) for each in _BLOCKS if each in event]
    timestamp, level, origin, what = (event.pop(each) for each in _ORDER)
    parts = [printable(f"{timestamp} [{level}] {what} [{origin}]")]
    parts += [f"{key}={quoted(value)}" for key, value in event.items()]
    return " ".join(parts) + "".join(map(indented, blocks))


def _logfmt(logger: Any, name: str, event: dict[str, Any]) -> str:
    fields = {each: event.pop(each) for each in _ORDER} | event
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in fields.items())


def _logfmt_value(value: Any) -> str:
    if value is None:
        return ""
    return quoted(str(value).lower() if isinstance(value, bool) else value)
