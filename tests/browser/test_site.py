"""The site of the documentation in Chromium: search, light and dark, on a phone; nothing comes from other hosts."""

from __future__ import annotations

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.site import BUILT, built_site

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
WIDE = ["", "tutorial/", "callee/", "protocol/", "api/juggler.client/", "project/commands/"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def documentation(tmp_path_factory):
    """The address of the built site."""
    path = os.environ.get(BUILT) or built_site(tmp_path_factory.mktemp("site")).path
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def opened(page, documentation):
    """Open a page of the site. The test fails if anything is loaded from elsewhere."""
    foreign: list[str] = []

    def on_request(request):
        if urlsplit(request.url).scheme != "data" and not request.url.startswith(documentation):
            foreign.append(request.url)

    page.on("request", on_request)

    def go(path):
        page.goto(documentation + path)
        page.wait_for_load_state("networkidle")
        return page

    yield go
    assert foreign == []


def test_the_search_finds_a_heading_and_a_python_name(opened):
    page = opened("")
    field = page.get_by_placeholder("Search")
    for words, place in [("token_grace", "server/"), ("AsyncBackend", "api/juggler.backend/")]:
        field.click()
        field.press_sequentially(words)
        expect(page.locator(f".md-search-result__link[href*='{place}']").first).to_be_visible()
        field.fill("")


@pytest.mark.parametrize("context", [{"color_scheme": "dark"}, {"color_scheme": "light"}], indirect=True)
def test_the_mode_is_that_of_the_system_until_it_is_chosen(opened, context, request):
    scheme = request.node.callspec.params["context"]["color_scheme"]
    page = opened("callee/")
    body = page.locator("body")
    schemes = {"light": "default", "dark": "slate"}
    expect(body).to_have_attribute("data-md-color-scheme", schemes[scheme])
    other = "dark" if scheme == "light" else "light"
    for _ in range(3):
        if body.get_attribute("data-md-color-scheme") != schemes[other]:
            page.locator("form.md-header__option label:visible").click()
    expect(body).to_have_attribute("data-md-color-scheme", schemes[other])


@pytest.mark.parametrize("context", [PHONE], indirect=True)
def test_no_page_is_wider_than_a_phone(opened):
    for path in WIDE:
        page = opened(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
