"""What runs now, on standard error: a line that moves on a terminal, a line for each step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Progress:
    """Tells steps, each of which is also a `Status` on a terminal."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._status: Status | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the line, as long as the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("") as self._status:
            yield
        self._status = None

    def step(self, text: str) -> None:
        """Something else runs now."""
        if self._status is None:
            self._console.print(f"{self.prefix}{text}", soft_wrap=True)
        else:
            from rich.text import Text

            self._status.update(Text(f"{self.prefix}{text}"))
