"""Every file, directory, class and function that docs/architecture.md names exists, and the page names every room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")

PATHS = sorted(set(re.findall(r"`([\w/.-]+(?:\.py|/))`", PAGE)))
WALK = re.findall(r"^\| `([\w/]+\.py)` \| (`.*?`) \|", PAGE, re.MULTILINE)
"""Rows of the walks: a file, and the functions that the walk passes in it."""


def test_paths_exist() -> None:
    assert not [path for path in PATHS if not ((ROOT / "juggler" / path).exists() or (ROOT / path).exists())]


def defined(path: Path) -> set[str]:
    """Return the classes, functions and methods of a module, methods as ``Class.method``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("path", "functions"), WALK, ids=[f"{path} {names}" for path, names in WALK])
def test_the_walks_pass_functions_that_exist(path: str, functions: str) -> None:
    assert set(re.findall(r"`(.*?)`", functions)) <= defined(ROOT / "juggler" / path)


def test_the_walks_are_found() -> None:
    assert len(WALK) >= 15
    assert len(PATHS) >= 40


def test_every_room_is_on_the_page() -> None:
    entries = [p.name for p in (ROOT / "juggler").iterdir() if not p.name.startswith(("__", "py.typed"))]
    assert not [entry for entry in entries if not re.search(rf"\b{re.escape(entry)}\b", PAGE)]
