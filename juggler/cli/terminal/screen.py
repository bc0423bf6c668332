"""The terminal: a prompt at the bottom, shown lines above. The only user of the prompt library.

Any thread may show a line. It appears above the prompt, and leaves the text being typed unchanged.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History as PromptHistory
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style

from juggler.cli.terminal import lines
from juggler.cli.terminal.completion import Names, complete
from juggler.cli.terminal.history import History
from juggler.cli.terminal.lines import StyledLine

MAX_QUEUED = 10_000
"""Lines queued to be shown; further ones are dropped and counted."""


class Screen:
    """The terminal of this process.

    Args:
        history: of typed lines.
        names: returns the names for completion; called on each Tab.
        max_queued: maximum lines queued to be shown.
    """

    def __init__(self, history: History, names: Callable[[], Names], max_queued: int = MAX_QUEUED) -> None:
        depth = ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None  # https://no-color.org
        self._style = Style.from_dict(lines.STYLES)
        self._session: PromptSession[str] = PromptSession(
            history=_PromptHistory(history, self.show),
            completer=_Completer(names),
            complete_while_typing=False,
            enable_history_search=True,
            style=self._style,
            color_depth=depth,
        )
        self._depth = depth or self._session.output.get_default_color_depth()
        self._max_queued = max_queued
        self._queued: deque[StyledLine] = deque()
        self._dropped = 0
        self._state = threading.Lock()  # guards the queue and the loop
        self._writing = threading.Lock()  # guards the terminal; acquired before the other
        self._loop: asyncio.AbstractEventLoop | None = None  # while a line is being typed
        self._is_asked = False

    def read(self, prompt: Callable[[], StyledLine]) -> str:
        """Read a line.

        Args:
            prompt: returns the prompt; called again after each line shown.

        Raises:
            KeyboardInterrupt: Ctrl-C, which discards the typed text.
            EOFError: Ctrl-D.
        """
        try:
            return self._session.prompt(lambda: FormattedText(_styled(prompt())), pre_run=self._on_typing)
        finally:
            with self._state:
                self._loop = None
                self._is_asked = False
            # The loop may not have run _write_above.
            self._write()

    def show(self, line: StyledLine) -> None:
        """Show a line, without blocking while a line is being typed."""
        with self._state:
            if len(self._queued) >= self._max_queued:
                self._dropped += 1
            else:
                self._queued.append(line)
            if self._loop is not None:
                if not self._is_asked:
                    self._is_asked = True
                    # If the loop closes now, read() shows the rest.
                    with suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._write_above)
                return
        self._write()

    def _on_typing(self) -> None:
        with self._state:
            self._loop = asyncio.get_running_loop()
        # Show lines queued since the previous line was read.
        self._write_above()

    def _write_above(self) -> None:
        run_in_terminal(self._write)

    def _write(self) -> None:
        with self._writing:
            while True:
                with self._state:
                    taken, dropped = list(self._queued), self._dropped
                    self._queued.clear()
                    self._dropped = 0
                    if not taken:
                        self._is_asked = False
                        return
                for line in taken:
                    self._print(line)
                if dropped:
                    self._print(lines.error(f"{dropped} lines dropped, because the terminal was too slow"))

    def _print(self, line: StyledLine) -> None:
        parts = FormattedText([*_styled(line), ("", "\n")])
        print_formatted_text(self._session.output, parts, self._style, color_depth=self._depth)


def _styled(line: StyledLine) -> list[tuple[str, str]]:
    return [(f"class:{style}" if style else "", text) for style, text in line]


class _Completer(Completer):
    def __init__(self, names: Callable[[], Names]) -> None:
        self._names = names

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        word, candidates = complete(document.text_before_cursor, self._names())
        for candidate in candidates:
            yield Completion(
                candidate.text, -len(word), display=candidate.text.rstrip(), display_meta=candidate.about or None
            )


class _PromptHistory(PromptHistory):
    """Adapt `History` to the prompt library. Show the first error, and write no more after it."""

    def __init__(self, history: History, show: Callable[[StyledLine], None]) -> None:
        super().__init__()
        self._history = history
        self._show = show
        self._is_enabled = True

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(reversed(self._history.load()))
        except OSError as error:
            self._disable(error)
            return []

    def store_string(self, string: str) -> None:
        if self._is_enabled:
            try:
                self._history.add(string)
            except OSError as error:
                self._disable(error)

    def _disable(self, error: OSError) -> None:
        if self._is_enabled:
            self._is_enabled = False
            self._show(lines.error(f"history disabled: {error}"))
