"""The descriptions of a function and of its parameters in a docstring, in the styles of Google and of Sphinx. PURE.

::

    Args:                          :param name: what it is called
        name: what it is called
        count (int): how many
            there are
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LENGTH = 500
"""Maximum length of a description in characters; the rest is cut off."""

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Keyword Args|Other Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Attributes|Todo"
    r"|See Also|References|Warnings?):\s*"
)
_OF_PARAMETERS = ("Args", "Arguments", "Parameters", "Keyword Args", "Other Parameters")
_ENTRY = re.compile(r"(\s+)\*{0,2}(\w+)(?:\s*\([^)]*\))?\s*:\s*(.*)")
_FIELD = re.compile(r":(\w+)[^:]*:\s*(.*)")
_PARAM = re.compile(r":param\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")


class Docstring(NamedTuple):
    """A docstring, taken apart.

    Attributes:
        text: the docstring up to the first section or field.
        parameters: descriptions of parameters by name.
    """

    text: str
    parameters: dict[str, str]


def parse_docstring(doc: str) -> Docstring:
    """Take a docstring apart that has been cleaned by `inspect.getdoc`."""
    found: dict[str, list[str]] = {}
    text: list[str] = []
    section = ""
    entry: list[str] | None = None
    indent = 0
    for line in doc.expandtabs().splitlines():
        if (header := _SECTION.fullmatch(line)) or _FIELD.fullmatch(line):
            param = _PARAM.fullmatch(line)
            section = header[1] if header else "fields"
            entry = found.setdefault(param[1], [param[2]]) if param else None
            indent = 0
        elif not section:
            text.append(line)
        elif line.strip() and not line[0].isspace():
            section, entry = "others", None
        elif section in _OF_PARAMETERS and (named := _ENTRY.fullmatch(line)) and len(named[1]) <= (indent or 99):
            indent = len(named[1])
            entry = found.setdefault(named[2], [named[3]])
        elif entry is not None:
            entry.append(line.strip())
    described = {name: " ".join(filter(None, lines))[:MAX_LENGTH] for name, lines in found.items()}
    return Docstring("\n".join(text).strip()[:MAX_LENGTH], {name: each for name, each in described.items() if each})
