"""What a worker counts."""

from __future__ import annotations

from collections.abc import Iterable


class Counts:
    """Counts of calls. Each request ends as one of the other three.

    Attributes:
        requests: calls that were taken from the broker.
        successes: those that were answered with a result.
        failures: those that were answered with an error.
        expiries: those that nobody waited for any more, before they were run or when they had ended.
    """

    __slots__ = ("expiries", "failures", "requests", "successes")

    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.failures = 0
        self.expiries = 0

    def __repr__(self) -> str:
        return ", ".join(f"{getattr(self, name)} {name}" for name in ("requests", "successes", "failures", "expiries"))


class Stats:
    """The counts of a worker.

    Attributes:
        by_uri: the counts of each URI that is served.
    """

    __slots__ = ("by_uri",)

    def __init__(self, uris: Iterable[str]) -> None:
        self.by_uri = {uri: Counts() for uri in uris}

    def total(self) -> Counts:
        """Return the counts of all URIs together, as they are now."""
        total = Counts()
        for counts in self.by_uri.values():
            for name in Counts.__slots__:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        return total
