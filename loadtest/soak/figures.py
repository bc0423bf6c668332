"""What a system at rest is made of, and whether it is still the same. PURE: no I/O, no clock."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MEMORY_PART, MEMORY_BYTES = 0.1, 8 * 2**20
"""By how much the memory of a process may have grown: a tenth, and 8 MiB. Python, and the C library, give back
little of what was needed at the peak; what leaks grows beyond that in minutes."""

GAUGES = (
    "juggler_connections",
    "juggler_connection_greenlets_active",
    "juggler_calls_in_flight",
    "juggler_outgoing_queue_bytes",
    "juggler_waiting_responses",
    "juggler_workers",
)
"""Figures of the server that have to be the same."""


@dataclass
class Figures:
    """A system at rest.

    Attributes:
        memory: resident bytes of the processes of each role.
        files: open file descriptors of them.
        gauges: of the server, those of `GAUGES`.
        keys: in Redis, by kind.
    """

    memory: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    keys: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    what: str
    begin: str
    end: str
    allowed: str
    ok: bool


def kinds(keys: Iterable[str]) -> Counter[str]:
    """Count keys by kind: names that callees, servers and calls have made up are left out."""
    return Counter(re.sub(r"(\{[^}]*\}):.*", r"\1:*", _anonymous(key)) for key in keys)


def _anonymous(key: str) -> str:
    is_result = ":results:" in key
    return re.sub(r"\{[^}]*\}", "{*}", key) if is_result else key


def compare(begin: Figures, end: Figures) -> list[Row]:
    """Return how the figures of the end compare with those of the beginning."""
    return [
        *(_memory(role, begin.memory[role], end.memory.get(role, [])) for role in begin.memory),
        *(_files(role, begin.files[role], end.files.get(role, [])) for role in begin.files),
        *(_gauge(name, begin.gauges.get(name, 0), end.gauges.get(name, 0)) for name in GAUGES),
        *(_keys(kind, begin.keys[kind], end.keys[kind]) for kind in sorted(begin.keys | end.keys)),
    ]


def _memory(role: str, begin: list[int], end: list[int]) -> Row:
    most = int(max(begin) * (1 + MEMORY_PART)) + MEMORY_BYTES
    is_ok = len(begin) == len(end) and max(end) <= most
    return Row(f"memory, {role}", _mebibytes(begin), _mebibytes(end), f"{most / 2**20:.0f} MiB", is_ok)


def _files(role: str, begin: list[int], end: list[int]) -> Row:
    # Fewer are no leak: a process that was started anew has not used all yet.
    is_ok = len(begin) == len(end) and max(end) <= max(begin)
    return Row(f"files, {role}", _list(begin), _list(end), f"{max(begin)}", is_ok)


def _gauge(name: str, begin: float, end: float) -> Row:
    return Row(name, f"{begin:g}", f"{end:g}", f"{begin:g}", begin == end)


def _keys(kind: str, begin: int, end: int) -> Row:
    return Row(f"keys, {kind}", str(begin), str(end), str(begin), begin == end)


def _mebibytes(values: list[int]) -> str:
    return " ".join(f"{value / 2**20:.0f}" for value in sorted(values))


def _list(values: list[int]) -> str:
    return " ".join(map(str, sorted(values)))


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"{'':44}{'beginning':>16}{'end':>16}{'at most':>10}"]
    for row in rows:
        mark = "" if row.ok else "  WRONG"
        lines.append(f"{row.what:44}{row.begin:>16}{row.end:>16}{row.allowed:>10}{mark}")
    return lines
