"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Iterator


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield seconds to wait between attempts: doubled from ``first`` to ``longest``, with a jitter of 50 %."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311
        pause = min(2 * pause, longest)
