"""The documentation as a site: it builds without a warning, is whole, and loads nothing from other hosts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import import_module
from itertools import chain
from urllib.parse import urlsplit

import pytest

from tests.docs import DOCS, PAGES, ROOT, nav, nav_pages, python_blocks_of
from tests.site import built_site

SECTIONS = ("Tutorial", "How-to guides", "Reference", "Explanation")
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""Attributes that make a browser load something when it shows the page."""

pytestmark = pytest.mark.xdist_group("docs-site")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The directory of the site, built with --strict."""
    return built_site(tmp_path_factory.mktemp("site"))


class Loaded(HTMLParser):
    """Addresses that a page loads, and the ids of its elements."""

    def __init__(self, text):
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id", ""))
        if LOADING.get(tag) in values and values.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(values[LOADING[tag]])
        self.addresses += re.findall(r"url\((.*?)\)", values.get("style", ""))


def test_it_builds_in_little_time(site):
    assert site.cpu_seconds < 30
    assert len(list(site.path.rglob("index.html"))) > 40


def test_nothing_is_loaded_from_other_hosts(site):
    pages = list(site.path.rglob("*.html"))
    for page in pages:
        text = page.read_text("utf-8")
        foreign = [address for address in Loaded(text).addresses if urlsplit(address.strip("'\"")).netloc]
        assert foreign == [], page
        # Scripts of the theme name other hosts, for features that are off. The policy keeps a browser from asking them.
        assert "Content-Security-Policy\" content=\"default-src 'self';" in text, page
    for sheet in chain(site.path.rglob("*.css"), site.path.rglob("*.svg")):
        loaded = re.findall(r"""url\(["']?(.*?)["']?\)|@import\s+["'](.*?)["']""", sheet.read_text("utf-8"))
        assert [each for each in chain(*loaded) if urlsplit(each).netloc] == [], sheet


def test_every_public_name_is_in_the_api(site):
    for page in nav_pages():
        if page.startswith("api/"):
            name = page.removeprefix("api/").removesuffix(".md")
            text = (site.path / "api" / name / "index.html").read_text("utf-8")
            ids = Loaded(text).ids
            if name == "juggler":  # a table of links
                ids = {f"juggler.{each}" for each in re.findall(r'#juggler[\w.]*\.(\w+)"', text)}
            public = [each for each in getattr(import_module(name), "__all__", ()) if not each.startswith("_")]
            assert [each for each in public if f"{name}.{each}" not in ids] == [], name
            assert not [each for each in ids if re.search(r"\._[a-z]", each)], name


def test_every_module_of_the_examples_is_in_the_api():
    known = [page.removeprefix("api/").removesuffix(".md") for page in nav_pages() if page.startswith("api/")]
    for page in PAGES:
        for text in python_blocks_of(page):
            for module in re.findall(r"^(?:from|import) (juggler[\w.]*)", text, re.MULTILINE):
                parent = module.rpartition(".")[0]
                assert module in known or parent in known, f"{page}: {module}"


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
