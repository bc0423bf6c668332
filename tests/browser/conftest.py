"""A real Chromium, driven by Playwright.

Playwright's event loop does not work under gevent's patching: tests/integration/test_browser.py runs these tests in an
unpatched process.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gevent import monkey

from juggler.process.embedded import EmbeddedRedis
from tests.integration.commands import callee_process, server_process
from tests.operations import needs

collect_ignore_glob = ["test_*.py"] if monkey.is_module_patched("socket") else []

ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
TIMEOUT_MS = 30_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    from playwright.sync_api import expect, sync_playwright

    path = needs("chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium, request):
    """A new browser profile. The test fails on errors in its console."""
    options = getattr(request, "param", {"viewport": {"width": 1400, "height": 900}})
    context = chromium.new_context(**options)
    context.set_default_timeout(TIMEOUT_MS)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))

    def on_console(message) -> None:
        # Chromium requests an icon for each page.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            errors.append(message.text)

    context.on("console", on_console)
    context.expected_errors = []
    yield context
    context.close()
    unexpected = [error for error in errors if not any(word in error for word in context.expected_errors)]
    assert unexpected == []


@pytest.fixture
def page(context):
    return context.new_page()


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Start a server with the playground, and a callee with the demo's functions. Return the address of the page."""
    with (
        EmbeddedRedis() as redis,
        callee_process(redis.url),
        server_process(redis.url, "--playground", "--list-uri", "juggler.uris") as url,
    ):
        yield url.replace("ws://", "http://").removesuffix("ws")
