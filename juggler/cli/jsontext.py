"""JSON on command lines: as text, from a file or from standard input. It is sent exactly as written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from juggler.errors import InvalidValue
from juggler.protocol.codec import check_args

_LONGEST_SHOWN = 20


def read_json(value: str, *, from_stdin: bool = True) -> bytes:
    """Return the JSON text ``value``, the contents of ``@FILE`` or, with ``from_stdin``, of standard input for ``-``.

    Raises:
        ValueError: the text cannot be read or is not JSON; the message has line and column.
    """
    if value == "-" and from_stdin:
        return checked(_read_stdin())
    if value.startswith("@"):
        return checked(_read_file(value[1:]))
    try:
        return checked(value.encode())
    except UnicodeEncodeError:
        raise ValueError("not UTF-8") from None


def checked(text: bytes) -> bytes:
    """Return JSON text without surrounding space.

    Raises:
        ValueError: it is not one JSON value in UTF-8; the message has line and column.
    """
    try:
        check_args(text)
    except InvalidValue as error:
        raise ValueError(_why(text) or str(error)) from None
    return text.strip(b" \t\r\n")


def _why(text: bytes) -> str:
    """Return the error of the standard library's parser, which has line and column."""
    try:
        json.loads(text.decode(), parse_int=_drop, parse_float=_drop, parse_constant=_refuse)
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].split("\n", 1)[0]
        shown = rest[:_LONGEST_SHOWN] + "…" * (len(rest) > _LONGEST_SHOWN)
        where = f"before {shown}" if rest else "at the end of the line" if error.doc[error.pos :] else "at the end"
        return f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}, {where}"
    except RecursionError:
        return "not usable as JSON: nested too deeply"
    except ValueError as error:
        return str(error)
    return ""


def _drop(_: str) -> None:
    return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"NaN and Infinity are not JSON, got {constant}")


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    return sys.stdin.buffer.read()


def _read_file(name: str) -> bytes:
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None
