"""The documentation as a site: it builds without a warning, is whole, and loads nothing from other hosts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import import_module
from itertools import chain
from urllib.parse import urlsplit

import pytest

from tests.docs import PAGES, ROOT, nav_pages, python_blocks_of
from tests.integration.unpatched import pass_unpatched
from tests.site import BUILT, built_site

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


@pytest.mark.timeout(310)
def test_it_works_in_a_browser(site, monkeypatch):
    monkeypatch.setenv(BUILT, str(site.path))
    pass_unpatched(str(ROOT / "tests" / "browser" / "test_site.py"), seconds=300)


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
