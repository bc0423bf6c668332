"""Text for one line of a terminal, without control characters. PURE."""

from __future__ import annotations

import json

from juggler.errors import CallFailed
from juggler.process.logline import printable

VERBOSE = "juggler.cli.verbose"
"""Key in `click.Context.meta`: print tracebacks of errors."""


def one_line(text: bytes) -> str:
    """Return JSON text without its line breaks, which can only stand between tokens, and with escaped controls."""
    line = text.decode().replace("\r", " ").replace("\n", " ").replace("\t", " ")
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def describe(error: Exception) -> str:
    """Return an error as one line. That of a function has its type, code and data, if the callee reported them."""
    if not isinstance(error, CallFailed):
        return printable(str(error))
    type = f"{error.type}: " if error.type else ""
    code = "" if error.code is None else f", code {error.code}"
    # An error without a type is in the callee's own format: its text is the data.
    data = f", data {json.dumps(error.data, ensure_ascii=False)}" if type and error.data is not None else ""
    return printable(f"{type}{error}{code}{data}")
