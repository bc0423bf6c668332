"""Let msgspec check JSON with lone surrogates, which it refuses. PURE.

The escape of a lone surrogate (``"\\ud800"``) is legal JSON, and browsers send it. While msgspec reads the text, other
characters stand for the backslashes of such escapes. Everything runs at the speed of C, so that no text is slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

# Valid within strings only, as a backslash.
_MARKS = "~^`|@%$#&*;<>?!=()_\x7f"
_MORE_MARKS = "".join(map(chr, range(0xE000, 0xE010)))
_PRIVATE = range(0xE000, 0x110000)
_check = msgspec.json.Decoder(msgspec.Raw).decode


class Masked(NamedTuple):
    """A text in which no escape can be a surrogate.

    Attributes:
        text: the text, with `escape` for the backslash of ``\\uD…`` and `backslash` twice for each escaped backslash.
        escape: a character that the text does not contain otherwise.
        backslash: another one.
    """

    text: str
    escape: str
    backslash: str

    def unmask(self, part: str) -> str:
        """Return the original of a part of the text."""
        return part.replace(self.escape, "\\").replace(self.backslash, "\\")

    def unmask_string(self, string: str) -> str:
        """Return the original of a string that was decoded from the text.

        Raises:
            ValueError: it contains a lone surrogate.
        """
        if self.escape in string:
            string = re.sub(f"{re.escape(self.escape)}u(....)", lambda match: chr(int(match[1], 16)), string)
            string = string.encode("utf-16", "surrogatepass").decode("utf-16")
        return string.replace(self.backslash * 2, "\\")


def mask(text: str) -> Masked:
    """Mask the escapes that may be surrogates, and escaped backslashes.

    Raises:
        ValueError: an escape is malformed.
    """
    marks = _absent(text)
    escape, backslash = next(marks), next(marks)
    masked = text.replace("\\\\", backslash * 2).replace("\\ud", escape + "ud").replace("\\uD", escape + "uD")
    malformed = re.search(f"{re.escape(escape)}u[dD](?![0-9a-fA-F]{{3}})", masked)
    if malformed is not None:
        raise ValueError(f"invalid escape (character {malformed.start()})")
    return Masked(masked, escape, backslash)


def _absent(text: str) -> Iterator[str]:
    """Yield characters that a text does not contain."""
    yield from (mark for mark in _MARKS + _MORE_MARKS if mark not in text)
    present = set(text)
    yield from (mark for mark in map(chr, _PRIVATE) if mark not in present)


def check(text: str) -> None:
    """Check that a text is one JSON value.

    Raises:
        ValueError: it is not.
        RecursionError: it is nested too deeply.
    """
    _check(mask(text).text)
