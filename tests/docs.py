"""Read the pages of the documentation, and run the Python blocks of one as one program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [str(each.relative_to(ROOT)) for each in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]]
PAGES += ["examples/README.md"]
"""All pages, relative to the repository."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, relative to the repository."""
    text = (ROOT / page).read_text("utf-8")
    for found in re.finditer(r"^( *)```(\S*)[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[2], found[3])


def python_blocks_of(page: str) -> list[str]:
    """Return the Python code blocks of a page, relative to the repository."""
    return [block.text for block in blocks(page) if block.language == "python"]


def python_blocks(page: str) -> list[str]:
    """Return the Python code blocks of ``docs/<page>``."""
    return python_blocks_of(f"docs/{page}")


def run_blocks(page: str, replace: dict[str, str] | None = None) -> dict[str, Any]:
    """Run all Python blocks of ``docs/<page>``, with some texts replaced, and return their global names."""
    # The name must not be that of a real module.
    names: dict[str, Any] = {"__name__": f"docs of {page}"}
    for number, text in enumerate(python_blocks(page), 1):
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        exec(compile(text, f"{page}, block {number}", "exec", dont_inherit=True), names)
    return names


def nav() -> dict[str, Any]:
    """Return the sections of the site, from mkdocs.yml."""
    import yaml

    (text,) = re.findall(r"^nav:\n.*?(?=^\S)", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return {name: pages for section in yaml.safe_load(text)["nav"] for name, pages in section.items()}


def nav_pages(part: Any = None) -> list[str]:
    """Return the pages of the site, or those of a part of its nav."""
    part = nav() if part is None else part
    if isinstance(part, str):
        return [part]
    return [page for each in (part.values() if isinstance(part, dict) else part) for page in nav_pages(each)]
