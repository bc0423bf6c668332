"""When to replace a process whose functions may leak: after a number of calls, or above a memory limit. PURE."""

from __future__ import annotations

from msgspec import Struct

JITTER = 0.2
"""Largest reduction of the limits of a process, so that processes that started together are not replaced together."""

MB = 1_000_000


class WearLimits(Struct, frozen=True):
    """Limits of one process; 0 means unlimited.

    Attributes:
        calls: number of calls that it runs.
        memory: resident memory in bytes.
    """

    calls: int = 0
    memory: int = 0

    def __bool__(self) -> bool:
        return bool(self.calls or self.memory)

    def jittered(self, random: float) -> WearLimits:
        """Return these limits, reduced by up to `JITTER`.

        Args:
            random: a random number from 0 to 1.
        """
        factor = 1 - JITTER * random
        return WearLimits(max(round(self.calls * factor), 1 if self.calls else 0), int(self.memory * factor))

    def reason(self, calls: int, memory: int | None) -> str | None:
        """Return why a process is to be replaced; ``None`` if it is not.

        Args:
            calls: calls that it has run.
            memory: its resident memory in bytes; ``None`` if it is unknown.
        """
        if self.calls and calls >= self.calls:
            return f"{calls:,} calls"
        if self.memory and memory is not None and memory >= self.memory:
            return f"{memory / MB:.0f} MB"
        return None


UNLIMITED = WearLimits()
