"""The error of benchmarks, load tests and the soak: printed as one line, with exit code 2."""

from __future__ import annotations


class LoadTestError(Exception):
    """A run cannot start or cannot continue. The text is meant for the person who started it."""


def one_line(text: str, limit: int = 400) -> str:
    """Join the lines of a text with semicolons, and shorten it to ``limit`` characters."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
