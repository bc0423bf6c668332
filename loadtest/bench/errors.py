"""The one error that benchmarks raise for people: shown as one line, with exit code 2."""

from __future__ import annotations

import click


class BenchError(click.ClickException):
    """A benchmark cannot run, or went wrong; says what to do about it."""

    exit_code = 2


def one_line(text: str, most: int = 400) -> str:
    """Return a text without line breaks, and not too long."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return joined if len(joined) <= most else joined[: most - 1] + "…"
