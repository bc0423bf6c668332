"""The terminal: lines that are read at its bottom, lines that appear above. Alone it knows the prompt library.

Any thread may show a line. While somebody types, it appears above what he has typed, which stays as it is.
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
from juggler.cli.terminal.lines import Line

MOST_WAITING = 10_000
"""Lines that wait to be shown; more are dropped, and counted."""


class Screen:
    """The terminal of this process.

    Args:
        history: of what was typed.
        names: asked for what completes a word, whenever somebody wants to know.
        most_waiting: lines that wait to be shown.
    """

    def __init__(self, history: History, names: Callable[[], Names], most_waiting: int = MOST_WAITING) -> None:
        depth = ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None  # https://no-color.org
        self._style = Style.from_dict(lines.STYLES)
        self._session: PromptSession[str] = PromptSession(
            history=_Remembered(history, self.show),
            completer=_Completer(names),
            complete_while_typing=False,
            enable_history_search=True,
            style=self._style,
            color_depth=depth,
        )
        self._depth = depth or self._session.output.get_default_color_depth()
        self._most_waiting = most_waiting
        self._waiting: deque[Line] = deque()
        self._dropped = 0
        self._state = threading.Lock()  # of what waits, and of the loop
        self._writing = threading.Lock()  # of the terminal; taken before the other one
        self._loop: asyncio.AbstractEventLoop | None = None  # while somebody types
        self._is_asked = False

    def read(self, prompt: Callable[[], Line]) -> str:
        """Let a line be typed.

        Args:
            prompt: asked for what stands before it, again after each line that is shown.

        Raises:
            KeyboardInterrupt: Ctrl-C: what was typed is given up.
            EOFError: Ctrl-D.
        """
        try:
            return self._session.prompt(lambda: FormattedText(_styled(prompt())), pre_run=self._on_typing)
        finally:
            with self._state:
                self._loop = None
                self._is_asked = False
            # What the loop was asked for it may not have got to.
            self._write()

    def show(self, line: Line) -> None:
        """Show a line. It does not wait for the terminal while somebody types."""
        with self._state:
            if len(self._waiting) >= self._most_waiting:
                self._dropped += 1
            else:
                self._waiting.append(line)
            if self._loop is not None:
                if not self._is_asked:
                    self._is_asked = True
                    # It may end at this moment; then read() shows what is left.
                    with suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._write_above)
                return
        self._write()

    def _on_typing(self) -> None:
        with self._state:
            self._loop = asyncio.get_running_loop()
        # A thread may have shown something since the last one was read.
        self._write_above()

    def _write_above(self) -> None:
        run_in_terminal(self._write)

    def _write(self) -> None:
        with self._writing:
            while True:
                with self._state:
                    taken, dropped = list(self._waiting), self._dropped
                    self._waiting.clear()
                    self._dropped = 0
                    if not taken:
                        self._is_asked = False
                        return
                for line in taken:
                    self._print(line)
                if dropped:
                    self._print(lines.error(f"{dropped} lines came faster than they could be shown"))

    def _print(self, line: Line) -> None:
        parts = FormattedText([*_styled(line), ("", "\n")])
        print_formatted_text(self._session.output, parts, self._style, color_depth=self._depth)


def _styled(line: Line) -> list[tuple[str, str]]:
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


class _Remembered(PromptHistory):
    """The history as the prompt library wants it. One that cannot be kept is complained about once."""

    def __init__(self, history: History, show: Callable[[Line], None]) -> None:
        super().__init__()
        self._history = history
        self._show = show
        self._is_kept = True

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(reversed(self._history.load()))
        except OSError as error:
            self._complain(error)
            return []

    def store_string(self, string: str) -> None:
        if self._is_kept:
            try:
                self._history.add(string)
            except OSError as error:
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        if self._is_kept:
            self._is_kept = False
            self._show(lines.error(f"the history is not kept: {error}"))
