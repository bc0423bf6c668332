"""Tune Python's garbage collector for processes with many connections.

By default, it runs after 700 new objects. With 5,000 calls in flight, it found their objects alive each time: it took a
quarter of the CPU time and caused the longest pauses. Messages leave no cyclic garbage.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000
"""New objects after which the collector runs, about 1 MB."""


def raise_gc_threshold() -> None:
    """Raise the collector's first threshold to `YOUNG_OBJECTS`, unless it is higher or the collector is disabled."""
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)
