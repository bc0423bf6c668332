"""Logging of commands: one line for each record on standard error, as text, key=value or JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from juggler.process import stderr
from juggler.process.logline import Line, indented, printable, quoted
from juggler.process.tracing import current_trace, log_fields

_ORDER = ("timestamp", "level", "logger", "event")
_BLOCKS = ("exception", "stack_info")

# Attributes that every record has, or that another formatter has added: all others are of the caller's ``extra``.
_STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


class _Formatter(logging.Formatter):
    """Formats a record as fields: those of every record, details, ``extra``, the current span, and a traceback."""

    def __init__(self, render: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        message = record.msg
        what, details = (message.event, message.shown()) if isinstance(message, Line) else (record.getMessage(), {})
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="microseconds")
        own = dict(zip(_ORDER, (when.replace("+00:00", "Z"), record.levelname.lower(), record.name, what), strict=True))
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        blocks = {}
        if record.exc_info and record.exc_info[1]:
            blocks["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            blocks["stack_info"] = record.stack_info
        # The fields of every record come first, and no detail replaces them.
        return self._render(own | log_fields(current_trace()) | details | extra | own | blocks)


def configure(level: str = "info", format: str = "text") -> None:
    """Send the records of all loggers to standard error, which is kept from blocking.

    Args:
        level: lowest level to log: debug, info, warning or error.
        format: ``"text"``, ``"logfmt"`` or ``"json"``.
    """
    stderr.unblock()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(format))
    stderr.describe_dropped(lambda count: handler.format(_dropped(count)) + "\n")
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _dropped(count: int) -> logging.LogRecord:
    line = Line("log: lines dropped, their reader is too slow", lines=count)
    return logging.LogRecord("juggler.log", logging.WARNING, __file__, 0, line, None, None)


def formatter(format: str) -> logging.Formatter:
    """Return a formatter for the standard library's loggers. See `configure`."""
    return _Formatter({"text": _text, "logfmt": _logfmt, "json": _json}[format])


def _json(event: dict[str, Any]) -> str:
    return json.dumps(event, default=repr)


def _text(event: dict[str, Any]) -> str:
    """Render a record for people. Its traceback is indented: text in it cannot pass for another record."""
    blocks = [event.pop(each) for each in _BLOCKS if each in event]
    timestamp, level, origin, what = (event.pop(each) for each in _ORDER)
    parts = [printable(f"{timestamp} [{level}] {what} [{origin}]")]
    parts += [f"{key}={quoted(value)}" for key, value in event.items()]
    return " ".join(parts) + "".join(map(indented, blocks))


def _logfmt(event: dict[str, Any]) -> str:
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in event.items())


def _logfmt_value(value: Any) -> str:
    if value is None:
        return ""
    return quoted(str(value).lower() if isinstance(value, bool) else value)
