"""The history of typed lines: a bounded file with one JSON string per line, readable by its owner only.

By hand, because the prompt library's FileHistory grows without limit, and other users can read its file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MAX_LINES = 1000
"""Lines kept; the file is shortened when it has twice as many."""


def default_path(environment: Mapping[str, str]) -> Path:
    """Return the path of the history: in XDG_STATE_HOME if that is absolute, else in ``~/.local/state``."""
    base = Path(environment.get("XDG_STATE_HOME") or "")
    if not base.is_absolute():
        base = Path.home() / ".local" / "state"
    return base / "juggler" / "history"


class History:
    """A file of lines, oldest first. Several processes may append to it."""

    def __init__(self, path: Path, max_lines: int = MAX_LINES) -> None:
        self._path = path
        self._max_lines = max_lines
        self._count = 0

    def load(self) -> list[str]:
        """Return the newest lines, without invalid ones. A missing file is empty.

        Raises:
            OSError: the file cannot be read or shortened.
        """
        lines = self._read()
        self._count = len(lines)
        if len(lines) > self._max_lines:
            self._shorten(lines[-self._max_lines :])
        return lines[-self._max_lines :]

    def add(self, line: str) -> None:
        """Add a line.

        Raises:
            OSError: the file cannot be written.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")
        self._count += 1
        if self._count > 2 * self._max_lines:
            self.load()

    def _read(self) -> list[str]:
        try:
            text = self._path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return []
        lines = []
        for each in text.splitlines():
            with suppress(ValueError, RecursionError):
                line = json.loads(each)
                if isinstance(line, str):
                    lines.append(line)
        return lines

    def _shorten(self, lines: list[str]) -> None:
        """Replace the file atomically."""
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix="history-")
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._count = len(lines)
