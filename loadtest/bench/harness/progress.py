"""Progress on standard error: one changing line on a terminal, one line per step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text


class Progress:
    """Reports steps.

    Attributes:
        prefix: printed before each step.
    """

    def __init__(self) -> None:
        self.prefix = ""
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._status: Status | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the changing line while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("") as self._status:
            yield
        self._status = None

    def step(self, text: str) -> None:
        """Report that a step begins."""
        if self._status is None:
            self._console.print(f"{self.prefix}{text}", soft_wrap=True)
        else:
            self._status.update(Text(f"{self.prefix}{text}"))
