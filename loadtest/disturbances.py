"""Times at which failures were injected: what is lost then is excused. PURE: no I/O, no clock."""

from __future__ import annotations

from math import inf


class Disturbances:
    """The injected failures of a run, in seconds of one clock."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def begin(self, since: float) -> None:
        """Record that a failure is injected at ``since``; it lasts until `end`."""
        self._spans.append((since, inf))

    def end(self, now: float) -> None:
        """Record that the system has recovered from all injected failures."""
        self._spans = [(since, min(until, now)) for since, until in self._spans]

    def overlap(self, since: float, until: float) -> bool:
        """Return whether a failure was injected at some time between these."""
        return any(begin <= until and since <= end for begin, end in self._spans)
