"""How often Python looks for garbage in cycles, in processes that keep many connections.

By default it does after 700 new objects. Those of calls under way are found alive each time, over and over: at 5,000
calls under way that was a quarter of a server's CPU time, and its longest pauses. Messages leave no cycles behind.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000
"""New objects after which Python looks: a megabyte or so."""


def look_less_often() -> None:
    """Raise the collector's first threshold to `YOUNG_OBJECTS`, unless it is higher, or the collector is off."""
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)
