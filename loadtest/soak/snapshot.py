"""The resources of an idle system, and their comparison before and after a run. PURE: no I/O, no clock."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MEMORY_SHARE, MEMORY_BYTES = 0.1, 8 * 2**20
"""Allowed growth of a process: a tenth plus 8 MiB. Python and the C library return little of the peak to the system; a
leak exceeds this in minutes."""

GAUGES = (
    "juggler_connections",
    "juggler_connection_greenlets_active",
    "juggler_calls_in_flight",
    "juggler_outgoing_queue_bytes",
    "juggler_waiting_responses",
    "juggler_workers",
)
"""Metrics of the server that must have the same values."""


@dataclass
class Snapshot:
    """Resources of an idle system.

    Attributes:
        memory: resident memory of the processes in bytes, by role.
        files: open file descriptors of the processes, by role.
        gauges: metrics of the server, those of `GAUGES`.
        keys: number of keys in Redis, by kind.
        members: number of members of each set of the catalogue.
    """

    memory: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    keys: Counter[str] = field(default_factory=Counter)
    members: dict[str, int] = field(default_factory=dict)

    def forget(self, prefix: str) -> None:
        """Count no keys whose kind begins with ``prefix``."""
        self.keys = Counter({kind: count for kind, count in self.keys.items() if not kind.startswith(prefix)})


@dataclass(frozen=True)
class Row:
    """A line of the comparison."""

    what: str
    begin: str
    end: str
    allowed: str
    ok: bool


def kinds(keys: Iterable[str]) -> Counter[str]:
    """Count keys by kind, ignoring the random names of callees, servers and calls."""
    return Counter(re.sub(r"(\{[^}]*\}):.*", r"\1:*", _anonymous(key)) for key in keys)


def is_set(key: str) -> bool:
    """Return whether a key is a set of the catalogue: all URIs, the callees of one, or all servers."""
    return key in ("juggler:uris", "juggler:servers") or re.fullmatch(r"juggler:callees:\{[^}]*\}", key) is not None


def _anonymous(key: str) -> str:
    # In braces is the name of a server or callee, in other keys a URI.
    is_random = any(part in key for part in (":results:", ":callee:", ":server:", ":control:", ":replies:"))
    return re.sub(r"\{[^}]*\}", "{*}", key) if is_random else key


def compare(begin: Snapshot, end: Snapshot) -> list[Row]:
    """Compare two snapshots."""
    return [
        *(_memory(role, begin.memory[role], end.memory.get(role, [])) for role in begin.memory),
        *(_files(role, begin.files[role], end.files.get(role, [])) for role in begin.files),
        *(_exact(name, begin.gauges.get(name, 0), end.gauges.get(name, 0)) for name in GAUGES),
        *(_exact(f"keys, {kind}", begin.keys[kind], end.keys[kind]) for kind in sorted(begin.keys | end.keys)),
        *(
            _exact(f"members, {key}", begin.members.get(key, 0), end.members.get(key, 0))
            for key in sorted(begin.members | end.members)
        ),
    ]


def _memory(role: str, begin: list[int], end: list[int]) -> Row:
    most = int(max(begin) * (1 + MEMORY_SHARE)) + MEMORY_BYTES
    is_ok = len(begin) == len(end) and max(end) <= most
    return Row(f"memory, {role}", _mebibytes(begin), _mebibytes(end), f"{most / 2**20:.0f} MiB", is_ok)


def _files(role: str, begin: list[int], end: list[int]) -> Row:
    # Fewer are no leak: a restarted process has not used everything yet.
    is_ok = len(begin) == len(end) and max(end) <= max(begin)
    return Row(f"files, {role}", _list(begin), _list(end), f"{max(begin)}", is_ok)


def _exact(what: str, begin: float, end: float) -> Row:
    return Row(what, f"{begin:g}", f"{end:g}", f"{begin:g}", begin == end)


def _mebibytes(values: list[int]) -> str:
    return " ".join(f"{value / 2**20:.0f}" for value in sorted(values))


def _list(values: list[int]) -> str:
    return " ".join(map(str, sorted(values)))


def table(rows: Iterable[Row]) -> list[str]:
    """Format a comparison as a table."""
    lines = [f"{'':44}{'before':>16}{'after':>16}{'limit':>10}"]
    for row in rows:
        mark = "" if row.ok else "  WRONG"
        lines.append(f"{row.what:44}{row.begin:>16}{row.end:>16}{row.allowed:>10}{mark}")
    return lines
