"""Renew docs/images/playground.png, the picture in README.md: ``make picture``. Reduce its colours below 150 KB."""

from __future__ import annotations

import json

from playwright.sync_api import expect, sync_playwright

from juggler.client import Client
from tests.browser.conftest import ARGUMENTS, TIMEOUT_MS
from tests.integration.commands import ROOT, demo_process
from tests.operations import needs

PICTURE = ROOT / "docs" / "images" / "playground.png"
SIZE = {"width": 1280, "height": 860}

CALLS, PAUSE_MS = 16, 900


def main() -> None:
    """Start the demo with the functions of the tests, call one and receive its event, and take the picture."""
    with (
        demo_process("tests.browser.shop:rpc", REDIS_URL="") as url,
        sync_playwright() as playwright,
        Client(url) as client,
    ):
        browser = playwright.chromium.launch(executable_path=needs("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE, device_scale_factor=1)
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url.replace("ws://", "http://").removesuffix("/ws"))
        expect(page.locator("#state")).to_have_text("connected")
        page.get_by_role("button", name="Events").click()
        page.locator("#sub-channel").fill("orders.quoted")
        page.get_by_role("button", name="Subscribe", exact=True).click()
        page.get_by_role("button", name="Functions").click()
        page.locator('#uris [data-uri="orders.quote"]').click()
        page.locator("#args-tabs").get_by_role("button", name="JSON").click()
        page.locator("#call-args").fill(json.dumps({"sku": "tea", "count": 2, "delivery": "express"}))
        page.locator("#args-tabs").get_by_role("button", name="Form").click()
        for number in range(CALLS):
            client.call("orders.quote", ["cup", 1 + number % 4])
            page.get_by_role("button", name="Call", exact=True).click()
            expect(page.locator("#log [data-type=RES]")).to_have_count(number + 1)
            page.wait_for_timeout(PAUSE_MS)
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.screenshot(path=PICTURE, animations="disabled")
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1024:.0f} KB; look at it")


if __name__ == "__main__":
    main()
