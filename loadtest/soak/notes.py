"""Reads what the functions of `loadtest.soak.desk` note: one line for each start and each end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Note(NamedTuple):
    """A line.

    Attributes:
        what: "start" or "end".
        call: name of the call.
        pid: process of the function.
        at: monotonic time, which all processes of a machine share.
    """

    what: str
    call: str
    pid: int
    at: float


class Notes:
    """The notes from now on."""

    def __init__(self, path: Path) -> None:
        """Start at the end of the file, which need not exist."""
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> Iterator[Note]:
        """Return what was noted since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + newline)
        for line in whole.decode().splitlines():
            what, call, pid, at = line.split(" ")
            yield Note(what, call, int(pid), float(at))
