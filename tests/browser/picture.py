"""Renew the picture in README.md, docs/playground.png: ``python -m tests.browser.picture``, or ``make picture``."""

from __future__ import annotations

from playwright.sync_api import expect, sync_playwright

from juggler.client import Client
from tests.browser.conftest import ARGUMENTS, TIMEOUT_MS
from tests.integration.commands import ROOT, demo_process
from tests.operations import needs

PICTURE = ROOT / "docs" / "playground.png"
SIZE = {"width": 1200, "height": 560}


def main() -> None:
    """Start the demo, call a function and receive an event in the playground, and take the picture."""
    with demo_process(REDIS_URL="") as url, sync_playwright() as playwright, Client(url) as client:
        browser = playwright.chromium.launch(executable_path=needs("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE, device_scale_factor=1)
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url.replace("ws://", "http://").removesuffix("/ws"))
        expect(page.locator("#state")).to_have_text("connected")
        page.get_by_role("button", name="test.reverse").click()
        page.get_by_role("button", name="Call", exact=True).click()
        expect(page.locator("#answer")).to_contain_text("txet")
        client.publish("news", {"text": "hello"})
        page.screenshot(path=PICTURE, animations="disabled")
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1024:.0f} KB; look at it")


if __name__ == "__main__":
    main()
