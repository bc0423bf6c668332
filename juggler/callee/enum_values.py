"""The values that an enum accepts: its members and, of flags, their combinations. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, Flag
from typing import Any

_MOST_BITS = 7  # of flags with gaps between their bits, which are listed


def accepted_values(cls: type[Enum]) -> list[Any] | range | type:
    """Return the values that an enum accepts; their type if they cannot be listed."""
    members = [member.value for member in cls.__members__.values()]
    owner = next(each for each in cls.__mro__ if "_missing_" in vars(each))
    if owner.__module__ != "enum":
        return str if isinstance(members[0], str) else int  # it has a method that accepts others
    return _combinations(cls, members) if issubclass(cls, Flag) else list(dict.fromkeys(members))


def _combinations(cls: type[Enum], members: Sequence[int]) -> list[int] | range | type:
    """Return the values that flags accept. A negative one leaves out the bits that its complement has."""
    mask = 0
    for member in members:
        mask |= member
    size = 1 << mask.bit_length()
    if mask < 0 or _accepts(cls, size):
        return int  # bits without a name are kept or ignored
    is_gapless = mask == size - 1 and _accepts(cls, mask) and _accepts(cls, -size)
    if is_gapless or mask.bit_count() > _MOST_BITS:
        return range(-size, size)
    subsets = _subsets(mask)
    others = {value for subset in subsets for value in (subset - size, ~subset)}
    return [value for value in [*subsets, *sorted(others)] if _accepts(cls, value)]


def _subsets(mask: int) -> list[int]:
    subsets = [0]
    bit = 1
    while bit <= mask:
        if mask & bit:
            subsets += [subset | bit for subset in subsets]
        bit <<= 1
    return subsets


def _accepts(cls: type[Enum], value: int) -> bool:
    try:
        cls(value)
    except (TypeError, ValueError):
        return False
    return True
