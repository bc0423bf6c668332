"""Ratios of two series that were measured in turn: median and range. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

ENOUGH = 6
"""Rounds needed for a verdict. By chance alone, all six agree for one value in 32, all of three for one in 4."""
BETTER, WORSE, SAME = "better", "worse", ""


@dataclass(frozen=True)
class Ratio:
    """The ratios B/A of all rounds.

    Attributes:
        a: median of A.
        b: median of B.
        middle: median of the ratios.
        lowest: lowest ratio.
        highest: highest ratio.
        rounds: number of ratios.
    """

    a: float
    b: float
    middle: float
    lowest: float
    highest: float
    rounds: int

    def verdict(self, more_is_better: bool) -> str:
        """Return whether B is better or worse; `SAME` if the rounds disagree or are fewer than `ENOUGH`."""
        if self.rounds < ENOUGH or self.lowest <= 1.0 <= self.highest:
            return SAME
        return BETTER if (self.lowest > 1.0) == more_is_better else WORSE


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio | None:
    """Return the ratios of two series; ``None`` if A is 0 in a round, or no round has both."""
    pairs = list(zip(a, b, strict=False))
    if not pairs or any(first <= 0 for first, _ in pairs):
        return None
    ratios = [second / first for first, second in pairs]
    return Ratio(median(a), median(b), median(ratios), min(ratios), max(ratios), len(ratios))
