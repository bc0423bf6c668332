"""Refuse the words that juggler does not use, in everything that a person reads: see `tests.prose`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from juggler.callee.cli import main as callee_command
from juggler.cli.main import main as juggler_command
from tests.prose import check, files, words_in

PLACES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".ci", "docs"]
PLACES += ["juggler", "callee", "loadtest", "examples"]

BAD = '''"""Tell whoever waits that nobody serves this."""

log.warning(Line("redis: the call is given up", uri=uri))  # we begin anew
raise ConfigError(f"at most {most} at a time, and {name} has no right to it")
'''

GOOD = '''"""Return the calls in flight, one list at a time."""

raise ConfigError(f"[server] {key}: unknown key; did you mean {near}?")  # both are in the message
'''


def test_words() -> None:
    assert not [str(finding) for path in files(*PLACES) for finding in check(path)]


def help_texts(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Yield each text that ``--help`` shows, of a command and the commands below it."""
    yield name, " ".join(filter(None, [command.help, command.short_help, command.epilog]))
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            yield from help_texts(command.get_command(context, inner), f"{name} {inner}")


HELP = [*help_texts(juggler_command, "juggler"), *help_texts(callee_command, "juggler-callee")]


def test_help_texts() -> None:
    assert len(HELP) > 100
    assert not {name: found for name, text in HELP if (found := list(words_in(text)))}


def test_refused_words_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.prose.ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.md").write_text("It says so.\n\n```sh\nwhoever  # or nobody\n```\n[we](http://us/)\n")

    found = [(finding.place, finding.word) for finding in check(tmp_path / "bad.py")]
    assert found == [
        *[("bad.py:1", word) for word in ("tell", "whoever", "nobody")],
        *[("bad.py:3", word) for word in ("we", "anew", "given up")],
        *[("bad.py:4", word) for word in ("at a time", "no right to")],
    ]
    assert check(tmp_path / "good.py") == []
    assert [(f.place, f.word) for f in check(tmp_path / "bad.md")] == [
        ("bad.md:1", "says"),
        ("bad.md:4", "nobody"),
        ("bad.md:6", "we"),
    ]
