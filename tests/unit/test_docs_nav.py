"""The nav of mkdocs.yml and docs/README.md list the same pages in the same order, and all that exist."""

from __future__ import annotations

import re

from tests.docs import DOCS, ROOT, nav, nav_pages

SECTIONS = ("Tutorial", "How-to guides", "Reference", "Explanation")


def test_the_nav_and_the_first_page_agree():
    text = (DOCS / "README.md").read_text("utf-8")
    for section in SECTIONS:
        (part,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        listed = re.findall(r"^- \[.*?\]\((.*?)\)", part, re.MULTILINE)
        # The API and the help of commands are made when the site is built.
        pages = [page for page in nav_pages(nav()[section]) if not page.startswith(("api/", "project/commands"))]
        assert listed == [page.replace("project/", "../") for page in pages], section
        groups = [next(iter(each)) for each in nav()[section] if isinstance(each, dict) and not is_page(each)]
        assert re.findall(r"^\*\*(.*)\*\*$", part, re.MULTILINE) == [each for each in groups if each != "Python API"]


def is_page(entry):
    return isinstance(next(iter(entry.values())), str)


def test_no_page_is_an_orphan():
    listed = set(nav_pages())
    assert [page for page in (str(each.relative_to(DOCS)) for each in DOCS.rglob("*.md")) if page not in listed] == []
    top = {each.name for each in ROOT.glob("*.md")}
    assert [name for name in sorted(top) if f"project/{name}" not in listed] == []
