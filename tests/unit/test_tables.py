"""Tables of commands on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from juggler.cli.tables import table


def shown(*row: str) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    console.print(table(["URI", "signature"][: len(row)], [row]))
    return console.file.getvalue()


def test_text_is_no_markup() -> None:
    assert '"[/bold]" [red] :smile:' in shown('"[/bold]" [red] :smile:')


def test_text_cannot_control_the_terminal() -> None:
    text = shown("a\x1b[2J\x9b\n\u202e")
    assert r"a\x1b[2J\x9b\n\u202e" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_long_names_are_folded_and_not_cut() -> None:
    uri = "shop." + 20 * "abcde"
    lines = [line.strip("│┃ ") for line in shown(uri).split("\n")]
    assert uri in "".join(lines)
