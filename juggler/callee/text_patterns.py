"""Patterns of the texts that msgspec reads as values, for which JSON Schema has no fitting format. PURE.

They are regular expressions of ECMAScript, as JSON Schema demands.
"""

from __future__ import annotations

_LONG, _SHORT = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?"
_PART = r"[0-9]+(?:\.[0-9]+(?=[A-Za-z]$))?"  # only the last part may have a fraction
_LETTER = "[A-Za-z0-9+/]"
_MOST_COUNTED = 1000

TIME = f"^{_TIME}$"
"""A time without a time zone."""

DATE_TIME = f"^(?!0000)[0-9]{{4}}-(?:{_LONG}|{_SHORT}|02-(?:0[1-9]|[12][0-9]))[Tt ]{_TIME}$"
"""A date and time without a time zone. February has 29 days in each year."""

DURATION = f"^[-+]?[Pp](?=[0-9Tt])(?:{_PART}[Dd])?(?:[Tt](?=[0-9])(?:{_PART}[Hh])?(?:{_PART}[Mm])?(?:{_PART}[Ss])?)?$"
"""A duration in days, hours, minutes and seconds. One that is too long for a ``timedelta`` matches, too."""

INTEGER = "^-?(?:0|[1-9][0-9]*)$"
NATURAL = "^(?:-?0|[1-9][0-9]*)$"
POSITIVE = "^[1-9][0-9]*$"
"""Integers that are keys of an object: any, from 0, and from 1."""

NUMBER = (
    r"^-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|[nN][aA][nN]|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?)$"
)
"""A number that is the key of an object."""


def base64(least: int = 0, most: int | None = None) -> str:
    """Return the pattern of bytes in base64, with a minimum and a maximum number of bytes; ``None``: unlimited."""
    # Others are bounded by the length of the text: not each engine repeats that often.
    least = least if least <= _MOST_COUNTED else 0
    most = most if most is not None and most <= _MOST_COUNTED else None
    if not least and most is None:
        return f"^(?:{_LETTER}{{4}})*(?:{_LETTER}{{2}}==|{_LETTER}{{3}}=)?$"
    forms = []
    for rest, last in enumerate(("", f"{_LETTER}{{2}}==", f"{_LETTER}{{3}}=")):
        low = max(0, -((rest - least) // 3))  # rounded up
        high = None if most is None else (most - rest) // 3
        if high is None or high >= low:
            forms.append(f"(?:{_LETTER}{{4}}){{{low},{'' if high is None else high}}}{last}")
    return f"^(?:{'|'.join(forms)})$"
