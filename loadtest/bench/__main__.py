"""``python -m loadtest.bench``."""

from __future__ import annotations

from loadtest.bench.cli import command

if __name__ == "__main__":
    command()
