"""How long to wait between attempts."""

from __future__ import annotations

import random
from collections.abc import Iterator


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield seconds that double from ``first`` to ``longest``, each jittered by half."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311
        pause = min(2 * pause, longest)
