"""The playground in Chromium: with the mouse, with the keyboard alone, and on a phone."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from juggler.client import Client
from juggler.process.embedded import EmbeddedRedis, free_port
from tests.browser.test_module import LISTEN
from tests.integration.commands import ROOT, callee_process, demo_process, running_python, server_process
from tests.integration.test_example_chat import chat
from tests.integration.test_example_tokens import TOKENS, USAGE
from tests.support import eventually

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
DARK = {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"}
NARROW = {"viewport": {"width": 900, "height": 700}}


def as_json(page):
    """Edit arguments as JSON, in this page and in later ones."""
    page.evaluate("localStorage.setItem('juggler.mode', 'json')")
    page.reload()


@pytest.fixture
def playground(page, site):
    page.goto(site)
    as_json(page)
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#uris button")).to_have_count(3)
    return page


def test_a_function_is_picked_called_and_answers(playground):
    playground.get_by_role("button", name="test.reverse").click()
    expect(playground.locator("#call-uri")).to_have_value("test.reverse")
    expect(playground.locator("#call-args")).to_have_value('"text"')
    expect(playground.locator("#call-doc")).to_contain_text("Return a string with its characters in reverse order.")
    playground.get_by_role("button", name="Call", exact=True).click()
    expect(playground.locator("#answer")).to_have_text('"txet"')
    assert playground.locator("#call-took").inner_text().endswith(" ms")
    expect(playground.locator("#chart-now")).to_contain_text("1 calls, median")


def test_functions_are_filtered(playground):
    playground.get_by_role("searchbox", name="Filter functions").fill("rev")
    expect(playground.locator("#uris button")).to_have_count(1)
    playground.get_by_role("searchbox", name="Filter functions").fill("nothing of the kind")
    expect(playground.locator("#no-uris")).to_have_text("No function matches.")


def test_errors_are_shown(playground):
    call = playground.get_by_role("button", name="Call", exact=True)
    playground.locator("#call-uri").fill("test.reverse")
    playground.locator("#call-args").fill("[1")
    call.click()
    assert "not JSON" in playground.locator("#call-args").evaluate("(field) => field.validationMessage")
    playground.locator("#call-args").fill("1")
    call.click()
    expect(playground.locator("#answer")).to_have_text("InvalidArguments: text: Expected str, got int (code 400)")
    playground.locator("#call-uri").fill("}")
    call.click()
    expect(playground.locator("#answer")).to_contain_text("refused: 400 invalid URI")
    playground.locator("#call-uri").fill("test.delay")
    playground.locator("#call-args").fill('"9000"')
    playground.locator("#call-timeout").fill("0.05")
    call.click()
    expect(playground.locator("#answer")).to_have_text("no result of test.delay within 0.05 s")


def test_a_call_can_be_cancelled(playground):
    playground.locator("#call-uri").fill("test.delay")
    playground.locator("#call-args").fill('"3000"')
    playground.get_by_role("button", name="Call", exact=True).click()
    playground.get_by_role("button", name="Cancel").click()
    expect(playground.locator("#answer")).to_have_text("cancelled; the function may still run")


def test_a_failed_result_does_not_look_like_a_good_one(playground):
    call = playground.get_by_role("button", name="Call", exact=True)
    colours = []
    for args, answer in (('"ab"', '"ba"'), ("1", "InvalidArguments")):
        playground.locator("#call-uri").fill("test.reverse")
        playground.locator("#call-args").fill(args)
        call.click()
        expect(playground.locator("#answer")).to_contain_text(answer)
        for shown in ("#answer :is(.string, [data-kind=error] p)", '#log [data-type="RES"] b'):
            colours.append(playground.locator(shown).first.evaluate("(element) => getComputedStyle(element).color"))
    assert colours[0] != colours[2]
    assert colours[1] != colours[3]


def test_large_integers_keep_their_digits(playground):
    playground.locator("#call-uri").fill("test.echo")
    playground.locator("#call-args").fill("[[12345678901234567890, 1.5]]")
    playground.get_by_role("button", name="Call", exact=True).click()
    expect(playground.locator("#answer")).to_contain_text("12345678901234567890")
    for type in ("CALL", "RES"):
        expect(playground.locator(f'#log [data-type="{type}"]').first).to_contain_text("12345678901234567890")
    playground.get_by_role("button", name="Events").click()
    playground.locator("#pub-channel").fill("numbers")
    playground.locator("#pub-args").fill("9007199254740993")
    playground.get_by_role("button", name="Publish").click()
    expect(playground.locator('#log [data-type="PUB"]')).to_contain_text("9007199254740993")


def test_a_second_call_keeps_the_answer_of_the_first(playground):
    call = playground.get_by_role("button", name="Call", exact=True)
    for uri, args in (("test.delay", '"700"'), ("test.echo", "1"), ("test.reverse", "2")):
        playground.locator("#call-uri").fill(uri)
        playground.locator("#call-args").fill(args)
        call.click()
    answer = playground.locator("#answer")
    expect(answer.locator(".call")).to_have_count(3)
    expect(answer.locator('[data-kind="none"]')).to_have_count(0)
    failure = "InvalidArguments: text: Expected str, got int (code 400)"
    shown = f"test.delay 700 test.echo 1 test.reverse {failure}"
    assert " ".join(answer.inner_text().split()) == shown
    call.click()
    expect(answer).to_have_text("InvalidArguments: text: Expected str, got int (code 400)")


TYPED = """
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Literal, Optional
from uuid import UUID
from callee import Callee

class Colour(Enum):
    RED = "red"

@dataclass
class Item:
    sku: str
    colour: Colour

@dataclass
class Order:
    items: list[Item]
    name: str = "tea"
    wanted: Optional[date] = None

rpc = Callee()

@rpc.register("a.order")
def order(order: Order):
    return order

@rpc.register("b.many")
def many(count: Optional[int], colour: Literal["red", "green"], day: date, id: UUID, orders: dict[str, list[Order]],
         limit: Annotated[float, "x"], note: str | None, other: int = 3): ...

@rpc.register("c.named")
def named(*, name: str, orders: list[Item], limit: int = 5): ...

@rpc.register("d.whole", whole=True)
def whole(prices: list[float]): ...
"""

ITEM = '{"sku": "text", "colour": "red"}'
ORDER = f'{{"items": [{ITEM}], "name": "tea", "wanted": "2026-01-31"}}'

TEMPLATES = [
    f"[{ORDER}]",
    f'[1, "red", "2026-01-31", "00000000-0000-4000-8000-000000000000", {{"text": [{ORDER}]}}, 1.5, "text", 3]',
    f'{{"name": "text", "orders": [{ITEM}], "limit": 5}}',
    "[1.5]",
]


def test_templates_of_arguments_fit_the_signature(page, tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    with (
        EmbeddedRedis() as redis,
        running_python(
            "-m", "callee.cli", "typed:rpc", "--redis", redis.url, PYTHONPATH=f"{tmp_path}:{ROOT}"
        ) as callee,
        server_process(redis.url, "--playground", "--list-uri", "juggler.uris") as url,
    ):
        assert callee.stdout.readline(), callee.stderr.read()
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        expect(page.locator("#uris button")).to_have_count(len(TEMPLATES))
        for button, template in zip(page.locator("#uris button").all(), TEMPLATES, strict=True):
            button.click()
            expect(page.locator("#call-args")).to_have_value(template)
            page.get_by_role("button", name="Call", exact=True).click()
            expect(page.locator('#answer [data-kind="value"]')).to_be_visible()
        page.locator("#uris button").first.click()
        page.get_by_role("button", name="Call", exact=True).click()
        expect(page.locator("#answer")).to_contain_text('"sku": "text"')
        page.goto("about:blank")


def test_a_server_that_does_not_list_functions(page):
    with EmbeddedRedis() as redis, server_process(redis.url, "--playground") as url:
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        expect(page.locator("#no-uris")).to_contain_text("This server does not list functions")
        page.goto("about:blank")


def test_events_and_messages_are_shown(playground):
    playground.get_by_role("button", name="Events").click()
    playground.locator("#sub-channel").fill("news")
    playground.get_by_role("button", name="Subscribe", exact=True).click()
    expect(playground.locator("#subscriptions > li")).to_have_count(1)
    playground.locator("#pub-args").fill('{"n": 42}')
    playground.get_by_role("button", name="Publish").click()
    expect(playground.locator("#pub-answer")).to_contain_text("published, acknowledged in")
    log = playground.locator("#log")
    expect(log.locator('[data-type="EVNT"]')).to_contain_text('news {"n":42}')
    expect(playground.locator("#chart-now")).to_contain_text("1 events")
    playground.get_by_role("searchbox", name="Filter messages").fill("evnt")
    expect(log.locator("li")).to_have_count(1)
    playground.locator("#raw").check()
    expect(log.locator("li .text")).to_contain_text('{"meta":{"type":10,')
    playground.get_by_role("searchbox", name="Filter messages").fill("")
    playground.locator("#pause").check()
    count = log.locator("li").count()
    playground.get_by_role("button", name="Unsubscribe from news").click()
    expect(playground.locator("#subscriptions > li")).to_have_count(0)
    expect(log.locator("li")).to_have_count(count)
    playground.locator("#pause").uncheck()
    expect(log.locator('[data-type="UNSB"]')).to_have_count(1)
    playground.locator("#clear").click()
    expect(log.locator("li")).to_have_count(0)


def test_the_keyboard_is_enough(playground):
    playground.locator("#filter-functions").focus()
    for _ in range(3):
        playground.keyboard.press("Tab")  # the group and two functions
    playground.keyboard.press("Enter")
    expect(playground.locator("#call-uri")).to_have_value("test.echo")
    expect(playground.locator("#call-args")).to_be_focused()
    playground.keyboard.press("Control+a")
    playground.keyboard.type("[1, 2]")
    playground.keyboard.press("Control+Enter")
    expect(playground.locator("#answer")).to_contain_text("1,")


def test_an_unreachable_server_is_shown(playground, context):
    context.expected_errors = ["WebSocket connection"]
    playground.locator("#state").click()
    playground.locator("#url").fill("ws://127.0.0.1:1/ws")
    playground.get_by_role("button", name="Connect").click()
    expect(playground.locator("#state")).to_contain_text("connecting… (1006 cannot connect)")
    assert playground.get_by_role("button", name="Call", exact=True).is_disabled()


def test_a_restart_of_the_server_is_shown_and_survived(page, context):
    context.expected_errors = ["WebSocket connection", "ERR_CONNECTION_REFUSED"]
    bind = ("--bind", f"127.0.0.1:{free_port()}", "--playground", "--list-uri", "juggler.uris")
    with EmbeddedRedis() as redis, callee_process(redis.url):
        with server_process(redis.url, *bind) as url:
            page.goto(url.replace("ws://", "http://").removesuffix("ws"))
            as_json(page)
            expect(page.locator("#state")).to_have_text("connected")
            page.get_by_role("button", name="Events").click()
            page.locator("#sub-channel").fill("news")
            page.get_by_role("button", name="Subscribe", exact=True).click()
            expect(page.get_by_text("subscribed", exact=True)).to_be_visible()
        expect(page.locator("#state")).to_contain_text("connecting…")
        expect(page.get_by_text("waiting for the connection")).to_be_visible()
        expect(page.locator('#log [data-type="CONN"]').first).to_contain_text("lost, reconnecting: 1006")
        with server_process(redis.url, *bind):
            expect(page.locator("#state")).to_have_text("connected")
            expect(page.locator("#subscriptions .gap")).to_contain_text("Events may be missing here")
            expect(page.get_by_text("subscribed", exact=True)).to_be_visible()
            page.get_by_role("button", name="Functions").click()
            page.locator("#call-uri").fill("test.echo")
            page.get_by_role("button", name="Call", exact=True).click()
            expect(page.locator("#answer")).to_have_text("null")
            page.goto("about:blank")


@pytest.mark.parametrize("context", [{"viewport": {"width": 1400, "height": 900}}, DARK, NARROW, PHONE], indirect=True)
def test_it_is_accessible_and_fits(playground):
    playground.get_by_role("button", name="test.reverse").click()
    playground.get_by_role("button", name="Call", exact=True).click()
    expect(playground.locator("#answer")).to_have_text('"txet"')
    found = Axe().run(playground)
    assert found.violations_count == 0, found.generate_report()
    assert playground.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_everything_is_loaded_from_the_server(context, page, site):
    asked = []
    context.on("request", lambda request: asked.append(request.url))
    page.goto(site)
    expect(page.locator("#state")).to_have_text("connected")
    assert asked
    assert all(url.startswith(site) for url in asked)


def test_the_chat_of_the_examples(context, tmp_path):
    with chat(tmp_path / "chat.db") as url:
        ann, bob = (context.new_page() for _ in range(2))
        for tab, name in ((ann, "ann"), (bob, "bob")):
            tab.goto(url.replace("ws://", "http://").removesuffix("ws"))
            expect(tab.get_by_role("status")).to_have_text("in lobby")
            tab.get_by_label("Name").fill(name)
        ann.get_by_label("Message", exact=True).fill("hello <b>bob</b>")
        ann.keyboard.press("Enter")
        for tab in (ann, bob):
            expect(tab.locator("#messages li")).to_contain_text("ann" if tab is bob else "hello")
            expect(tab.locator("#messages span")).to_have_text("hello <b>bob</b>")
        bob.reload()
        expect(bob.locator("#messages span")).to_have_text("hello <b>bob</b>")
        found = Axe().run(ann)
        assert found.violations_count == 0, found.generate_report()
        for tab in (ann, bob):
            tab.goto("about:blank")


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("context", [PHONE | {"color_scheme": "dark"}], indirect=True)
def test_the_chat_on_a_phone(context, page, tmp_path):
    context.expected_errors = ["WebSocket connection"]
    with chat(tmp_path / "chat.db") as url:
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        status, messages, text = page.get_by_role("status"), page.locator("#messages"), page.locator("#text")
        expect(status).to_have_text("in lobby")
        found = Axe().run(page)  # of the empty room
        assert found.violations_count == 0, found.generate_report()
        for number in range(12):
            text.fill("w" * 300 if number == 3 else f"message {number}")
            page.keyboard.press("Enter")
            expect(messages.locator("li")).to_have_count(number + 1)
        assert fits(page)
        expect(messages.locator("li").last).to_be_in_viewport()
        # A message of another client does not move what is being read.
        messages.evaluate("(list) => list.scrollTo(0, 0)")
        with Client(url) as bob:
            bob.call("chat.say", {"room": "lobby", "name": "bob", "text": "news"})
        page.get_by_role("button", name="New messages").click()
        expect(messages.locator("li").last).to_be_in_viewport()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    expect(status).to_contain_text("reconnecting…")
    assert page.get_by_role("button", name="Send").is_disabled()
    assert fits(page)
    page.goto("about:blank")


STREAMS = """
import os
import time
from callee import Callee

rpc = Callee()

@rpc.register("a.count")
def count(n: int, fails: bool = False):
    for number in range(n):
        yield {"number": number}
    if fails:
        raise ValueError("stop")
    return "end"

@rpc.register("b.endless", pool="thread")
def endless():
    try:
        while True:
            yield 12345678901234567890
            time.sleep(0.02)
    finally:
        with open(os.environ["CLOSED"], "w") as file:
            file.write("closed")
"""


@pytest.fixture
def streams(page, tmp_path, request):
    (tmp_path / "streams.py").write_text(STREAMS)
    variables = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "CLOSED": str(tmp_path / "closed")}
    with (
        EmbeddedRedis() as redis,
        running_python("-m", "callee.cli", "streams:rpc", "--redis", redis.url, **variables) as callee,
        server_process(redis.url, "--playground", "--list-uri", "juggler.uris", *getattr(request, "param", ())) as url,
    ):
        assert callee.stdout.readline(), callee.stderr.read()
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        as_json(page)
        expect(page.locator("#uris button")).to_have_count(2)
        yield page
        page.goto("about:blank")


def call(page, uri, args):
    page.locator("#call-uri").fill(uri)
    page.locator("#call-args").fill(args)
    page.get_by_role("button", name="Call", exact=True).click()


def test_a_result_in_parts_is_shown(streams):
    answer = streams.locator("#answer")
    call(streams, "a.count", "[3]")
    expect(answer).to_contain_text("result:")
    parts = [f'{{"number":{number}}}' for number in range(2000)]
    assert answer.inner_text().split() == [*parts[:3], "result:", '"end"']
    call(streams, "a.count", "[2, true]")
    expect(answer).to_contain_text("Internal")
    assert answer.inner_text().splitlines()[:2] == parts[:2]
    call(streams, "a.count", "[2000]")
    expect(answer).to_contain_text("result:")
    assert answer.inner_text().split() == ["1500", "earlier", "parts", *parts[1500:], "result:", '"end"']
    call(streams, "a.count", "[0]")
    expect(answer).to_have_text('"end"')


def test_parts_are_shown_as_they_come_and_the_call_can_be_cancelled(streams, tmp_path):
    answer = streams.locator("#answer")
    call(streams, "b.endless", "")
    expect(answer.locator('[data-kind="part"]')).to_contain_text("12345678901234567890\n12345678901234567890")
    expect(answer.locator('[data-kind="none"]')).to_have_text("…")
    streams.get_by_role("button", name="Cancel").click()
    expect(answer.locator('[data-kind="error"]')).to_contain_text("cancelled")
    expect(answer.locator('[data-kind="part"]')).to_contain_text("12345678901234567890\n")
    expect(streams.locator('#log [data-type="CNCL"]')).to_have_count(1)
    eventually(lambda: (tmp_path / "closed").exists())


@pytest.mark.parametrize("streams", [("--subprotocol", "juggler.0")], indirect=True)
def test_without_parts_the_result_is_their_list(streams):
    call(streams, "a.count", "[2]")
    expect(streams.locator("#answer")).to_contain_text('"number": 1')
    assert streams.locator("#answer").inner_text().startswith("[")


def test_the_growing_text_of_the_examples(page):
    with demo_process(*TOKENS, TOKENS_PAUSE="0.06") as url:
        page.goto(url.replace("ws://", "http://").removesuffix("ws"))
        status, text = page.get_by_role("status"), page.locator("#text")
        expect(status).to_have_text("connected")
        page.evaluate(LISTEN, USAGE)
        write, stop = (page.get_by_role("button", name=name) for name in ("Write", "Stop"))
        write.click()
        expect(text).to_contain_text(" ")
        begun = text.inner_text()
        expect(text).not_to_have_text(begun)
        assert text.inner_text().startswith(begun.rstrip())
        assert write.is_disabled()
        stop.click()
        expect(status).to_have_text("stopped")
        page.wait_for_function("() => seen.length === 1")
        usage = page.evaluate("seen[0]")
        assert usage["words"] < usage["limit"]
        stopped = text.inner_text()
        assert stop.is_disabled()
        write.click()
        expect(status).to_have_text(f"{usage['limit']} words")
        assert text.inner_text().startswith(stopped)
        assert len(text.inner_text().split()) == usage["limit"]
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.goto("about:blank")
