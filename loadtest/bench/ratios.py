"""What two series of measurements, taken in turn, say of each other. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

ENOUGH = 6
"""Rounds. That as many agree by chance alone happens to one value in 32, to one in 4 of three rounds."""
BETTER, WORSE, SAME = "better", "worse", ""


@dataclass(frozen=True)
class Ratio:
    """B against A: one ratio for each round, of measurements next to each other in time.

    Attributes:
        a: A's median.
        b: B's.
        middle: the median of the ratios B/A.
        lowest: the least of them.
        highest: the greatest.
        rounds: how many there are.
    """

    a: float
    b: float
    middle: float
    lowest: float
    highest: float
    rounds: int

    def verdict(self, more_is_better: bool) -> str:
        """Return what B is; nothing where not all rounds agree, or where there are too few to tell."""
        if self.rounds < ENOUGH or self.lowest <= 1.0 <= self.highest:
            return SAME
        return BETTER if (self.lowest > 1.0) == more_is_better else WORSE


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio | None:
    """Return B against A, ``None`` when A was 0 in a round, or there is no round that has both."""
    pairs = list(zip(a, b, strict=False))
    if not pairs or any(first <= 0 for first, _ in pairs):
        return None
    ratios = [second / first for first, second in pairs]
    return Ratio(median(a), median(b), median(ratios), min(ratios), max(ratios), len(ratios))
