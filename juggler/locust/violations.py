"""What a check has found: broken promises, each with a count and examples. PURE: no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Violations:
    """Violations: the number of each kind, and its first examples."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str = "") -> None:
        self.counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if example and len(examples) < self.EXAMPLES:
            examples.append(example)

    def add_all(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self.add(kind)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def lines(self) -> list[str]:
        """Format one line for each kind."""
        return [f"{count} x {kind}{self._shown(kind)}" for kind, count in sorted(self.counts.items())]

    def _shown(self, kind: str) -> str:
        examples = self._examples[kind]
        return f" ({'; '.join(examples)})" if examples else ""
