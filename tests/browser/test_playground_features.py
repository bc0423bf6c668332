"""Forms, trees, copies, history, links, events, the log and the fleet in the playground."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from juggler.process.embedded import EmbeddedRedis
from tests.integration.commands import ROOT, callee_process, environment, running_python, server_process

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
CLIPBOARD = {"viewport": {"width": 1400, "height": 900}, "permissions": ["clipboard-read", "clipboard-write"]}
FUNCTIONS = 8
LISTS = ("--playground", "--list-uri", "juggler.uris", "--fleet-uri", "juggler.fleet")


@contextmanager
def shop_process(redis_url):
    arguments = ("-m", "callee.cli", "tests.browser.shop:rpc", "--redis", redis_url)
    with running_python(*arguments, PYTHONPATH=str(ROOT)) as process:
        assert process.stdout.readline(), process.stderr.read()
        yield


@pytest.fixture(scope="module")
def redis_of_shop():
    with EmbeddedRedis() as redis:
        yield redis.url


@pytest.fixture(scope="module")
def shop(redis_of_shop):
    with shop_process(redis_of_shop), server_process(redis_of_shop, *LISTS) as url:
        yield url.replace("ws://", "http://").removesuffix("ws")


@pytest.fixture
def playground(page, shop):
    page.goto(shop)
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#uris button")).to_have_count(FUNCTIONS)
    yield page
    page.goto("about:blank")


def pick(page, uri):
    page.locator(f'#uris [data-uri="{uri}"]').click()
    expect(page.locator("#call-uri")).to_have_value(uri)


def call(page):
    page.get_by_role("button", name="Call", exact=True).click()


def args(page):
    return json.loads(page.locator("#call-args").input_value())


def mode(page, name):
    page.locator("#args-tabs").get_by_role("button", name=name).click()


def test_a_form_and_json_edit_the_same_value(playground):
    pick(playground, "orders.place")
    form = playground.locator("#args-form")
    form.get_by_label("customer", exact=True).fill("ann")
    form.get_by_label("sku", exact=True).fill("tea")
    form.get_by_label("count", exact=True).fill("2")
    form.get_by_label("colour", exact=True).select_option(label="green")
    form.get_by_role("button", name="Add item").click()
    form.get_by_label("sku", exact=True).nth(1).fill("cup")
    form.get_by_label("Set count").nth(1).uncheck()
    form.get_by_label("pay: kind").select_option(label="Invoice")
    form.get_by_label("address", exact=True).fill("Am Markt 1")
    form.get_by_label("express", exact=True).select_option(label="true")
    form.get_by_label("note: kind").select_option(label="null")
    items = [{"sku": "tea", "count": 2, "colour": "green"}, {"sku": "cup"}]
    expected = ["ann", items, {"type": "invoice", "address": "Am Markt 1"}, True, None]
    assert args(playground) == expected
    mode(playground, "JSON")
    playground.locator("#call-args").fill(json.dumps([*expected[:4], "by hand"]))
    mode(playground, "Form")
    expect(form.get_by_label("note", exact=True)).to_have_value("by hand")
    form.get_by_role("button", name="Remove an item of items").nth(0).click()
    call(playground)
    answer = playground.locator("#answer")
    expect(answer).to_contain_text('"sku": "cup"')
    expect(answer).to_contain_text('"note": "by hand"')
    assert "tea" not in answer.inner_text()


def test_problems_are_shown_beside_the_field_and_stop_the_call(playground):
    pick(playground, "orders.place")
    sku = playground.get_by_label("sku", exact=True)
    sku.fill("")
    problem = playground.locator(f"#{sku.get_attribute('id')}-problem")
    expect(problem).to_have_text("must not be empty")
    expect(sku).to_have_attribute("aria-invalid", "true")
    call(playground)
    expect(sku).to_be_focused()
    expect(playground.locator('#log [data-type="CALL"]')).to_have_count(0)
    mode(playground, "JSON")
    expect(playground.locator("#args-problems")).to_have_text("/1/0/sku: must not be empty")
    call(playground)  # the callee decides
    expect(playground.locator("#answer")).to_contain_text("InvalidArguments")
    playground.locator("#call-args").fill("[1")
    mode(playground, "Form")
    expect(playground.locator("#args-problems")).to_contain_text("Not shown as a form: not JSON")
    playground.locator("#call-args").fill('["ann", 7, {"type": "card", "number": "1"}]')
    mode(playground, "Form")
    wrong = playground.get_by_label("items, as JSON")
    expect(wrong).to_have_value("7")
    playground.get_by_role("button", name="Use the form").click()
    assert args(playground)[1] == []
    mode(playground, "JSON")
    playground.locator("#call-args").fill('{"customer": "ann"}')
    mode(playground, "Form")  # adds what is required
    assert args(playground) == {"customer": "ann", "items": [], "pay": {"type": "card", "number": ""}}


# Schemas with values that a form must return as they are, also where they do not fit.
SHOWN = [
    ({"type": "string"}, "two\nlines"),
    ({"type": "string"}, 5),
    ({"type": "integer"}, 7),
    ({"type": "integer", "minimum": 3}, 1),
    ({"type": "number"}, 0.25),
    ({"type": "boolean"}, True),
    ({"type": ["string", "null"]}, None),
    ({"type": ["string", "integer"]}, 3),
    ({"enum": ["a", 2, None]}, 2),
    ({"enum": ["a"]}, "b"),
    ({"const": {"a": 1}}, {"a": 1}),
    ({}, {"a": [1, {"b": None}]}),
    (True, "x"),
    ({"type": "array", "items": {"type": "integer"}}, [1, 2, 3]),
    ({"type": "array", "items": {"type": "integer"}}, list(range(300))),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 1}, ["a"]),
    ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1, 2]),
    ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": "x", "more": [1]}),
    ({"type": "object", "properties": {"a": {"type": "string"}}}, {}),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": 1, "y/z": 2}),
    ({"oneOf": [{"type": "object", "required": ["a"]}, {"type": "array"}]}, [1]),
    ({"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"a": {"const": 1}}}]}, {"a": 1}),
    (
        {"$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}, "$ref": "#/$defs/A"},
        {"a": {"a": {}}},
    ),
    ({"$defs": {"A": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"}, 1),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}}, {"a": {"a": {}}}),
    ({"type": "array", "prefixItems": [{"type": "string"}], "items": False}, ["a", 2]),
    ({"type": "array", "prefixItems": [{"type": "string"}], "items": False}, []),
    ({"anyOf": [{"type": "object", "properties": {"a": {"const": None}}}, {"type": "null"}]}, {"a": None}),
    ({"type": "string", "format": "date-time", "default": "x"}, "2026-01-31T12:00:00+02:00"),
]
SHOW = """async (cases) => {
  const { makeForm } = await import("/playground-form.js");
  const place = document.body.appendChild(document.createElement("div"));
  return cases.map(([schema, value]) => makeForm(place, schema, value, () => {}).value);
}"""
EXACT = """async (text) => {
  const { exact, tree } = await import("/playground-json.js");
  const { makeForm } = await import("/playground-form.js");
  const long = `[${text},"${"x".repeat(60000)}",{"a":${text}},"\\ue000 7"]`;
  const place = document.body.appendChild(document.createElement("div"));
  const form = makeForm(place, { items: { type: ["number", "string"] } }, exact(text), () => {});
  const isLongExact = JSON.stringify(exact(long)) === long;
  return [JSON.stringify(exact(text)), isLongExact, JSON.stringify(form.value), tree(exact(text)).textContent];
}"""


def test_forms_and_trees_keep_every_value(playground):
    assert playground.evaluate(SHOW, SHOWN) == [value for _, value in SHOWN]
    text = '[12345678901234567890,0.1000000000000000055511,1.50,-0,"12345678901234567890"]'
    short, is_long_exact, form, shown = playground.evaluate(EXACT, text)
    assert (short, is_long_exact, form) == (text, True, text)
    assert shown.replace(" ", "") == text
    playground.evaluate("document.body.lastElementChild.remove()")


def test_a_recursive_form_grows_on_demand(playground):
    pick(playground, "tree.depth")
    for _ in range(3):
        boxes = playground.get_by_label("Set children")
        if not boxes.last.is_checked():
            boxes.last.check()
        playground.get_by_role("button", name="Add item").first.click()
    call(playground)
    expect(playground.locator("#answer")).to_have_text("4")


def test_a_large_answer_is_shown_in_part_and_folds(playground):
    pick(playground, "sys.large")
    mode(playground, "JSON")
    playground.locator("#call-args").fill("[40000, 3000000]")
    call(playground)
    answer = playground.locator("#answer")
    answer.locator("summary").nth(1).click()
    expect(answer).to_contain_text("1152921504606846976")  # 2**60
    assert int(playground.evaluate("document.querySelectorAll('#answer *').length")) < 3000
    assert int(playground.evaluate("document.querySelector('#answer').textContent.length")) < 50_000
    answer.get_by_role("button", name="200 more of 39,900").click()
    expect(answer.get_by_role("button", name="400 more of 39,700")).to_be_visible()
    answer.get_by_role("button", name="2,999,000 more characters").click()
    expect(answer.get_by_role("button", name="2,979,000 more characters")).to_be_visible()
    playground.get_by_role("button", name="Unfold all").click()
    assert int(playground.evaluate("document.querySelectorAll('#answer *').length")) < 30_000
    playground.get_by_role("button", name="Fold all", exact=True).click()
    expect(answer.locator("details[open]")).to_have_count(1)
    # The log keeps the beginning of such a message.
    expect(playground.locator('#log [data-type="RES"] .text')).to_contain_text("characters)")


@pytest.mark.parametrize("context", [CLIPBOARD], indirect=True)
def test_copies_of_calls_run(playground, shop):
    value = {
        "text": 'it\'s "é" 😀 \\ $HOME `x`',
        "big": 2**70,
        "list": [True, None, -1.5, "--help"],
        "long": ["word" * 10] * 5,
    }
    pick(playground, "sys.echo")
    mode(playground, "JSON")
    playground.locator("#call-args").fill(json.dumps(value))

    def copied(name):
        playground.get_by_role("button", name=name, exact=True).click()
        expect(playground.locator(f'[data-copy="{name.lower()}"]')).to_have_text("Copied")
        return playground.evaluate("navigator.clipboard.readText()")

    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    run = {"capture_output": True, "text": True, "timeout": 60, "check": True, "env": environment(PATH=path)}
    done = subprocess.run([sys.executable, "-c", copied("Python")], cwd=ROOT, **run)
    assert done.stdout == f"{value}\n"
    done = subprocess.run(["/bin/sh", "-c", copied("CLI")], cwd=ROOT, **run)
    assert json.loads(done.stdout) == value
    program = copied("JS").replace("console.log", "found.push")
    found = playground.evaluate(f"async () => {{ const found = []; {program}; return JSON.stringify(found) }}")
    assert json.loads(found) == [value | {"big": float(2**70)}]
    link = copied("Link")
    assert link.startswith(f"{shop}#call=sys.echo&args=")
    playground.locator('#uris [data-uri="orders.watch"]').click()
    done = subprocess.run([sys.executable, "-c", copied("Python")], cwd=ROOT, **run)
    assert done.stdout.splitlines() == [str({"state": number}) for number in range(3)]


SECRET = "hunter2"


def test_the_history_is_kept_without_secrets(playground, shop):
    playground.locator("#state").click()
    playground.get_by_label("Token").fill(SECRET)
    playground.get_by_role("button", name="Connect").click()
    expect(playground.locator("#state")).to_have_text("connected")
    pick(playground, "users.login")
    playground.get_by_label("user", exact=True).fill("ann")
    playground.get_by_label("password", exact=True).fill(SECRET)
    call(playground)
    expect(playground.locator("#answer")).to_have_text('"ann"')
    pick(playground, "sys.echo")
    mode(playground, "JSON")
    playground.locator("#call-args").fill('{"a": 1}')
    call(playground)
    expect(playground.locator("#answer")).to_contain_text("1")
    kept = playground.evaluate("JSON.stringify(localStorage) + location.href")
    assert SECRET not in kept
    assert "users.login" in kept
    for _ in range(60):
        playground.evaluate("document.querySelector('#call-args').value += ' '")
    playground.reload()
    playground.locator("#history-box summary").click()
    history = playground.locator("#history button")
    expect(history).to_have_count(2)
    expect(history.nth(1)).to_contain_text("arguments not kept")
    history.nth(0).click()
    expect(playground.locator("#call-uri")).to_have_value("sys.echo")
    assert args(playground) == {"a": 1}
    expect(playground.locator('#log [data-type="CALL"]')).to_have_count(0)
    entry = {"uri": "a", "args": "1", "timeout": 1, "outcome": "value", "took": 1, "at": 1}
    playground.evaluate("(entries) => localStorage.setItem('juggler.history', JSON.stringify(entries))", [entry] * 900)
    playground.reload()
    playground.locator("#history-box summary").click()
    expect(history).to_have_count(50)
    playground.get_by_role("button", name="Clear history").click()
    expect(history).to_have_count(0)
    assert playground.evaluate("localStorage.getItem('juggler.history')") is None


def test_a_link_restores_the_page_and_calls_nothing(playground, shop):
    pick(playground, "tree.depth")
    playground.get_by_label("name", exact=True).fill("root & <b>")
    playground.get_by_role("button", name="Events").click()
    playground.locator("#sub-channel").fill("news")
    playground.get_by_role("button", name="Subscribe", exact=True).click()
    playground.wait_for_function("() => location.hash.includes('channel=news')")
    link = playground.evaluate("location.href")
    playground.goto("about:blank")
    playground.goto(link)
    expect(playground.locator("#subscriptions h3")).to_have_text("news")
    expect(playground.get_by_text("subscribed", exact=True)).to_be_visible()
    expect(playground.locator("#call-uri")).to_have_value("tree.depth")
    expect(playground.locator("#call-section")).to_be_hidden()
    playground.get_by_role("button", name="Functions").click()
    expect(playground.get_by_label("name", exact=True)).to_have_value("root & <b>")
    expect(playground.locator('#log [data-type="CALL"]')).to_have_count(0)


def test_each_subscription_has_a_panel(playground):
    playground.get_by_role("button", name="Events").click()
    for channel, is_pattern in (("a.one", False), ("a.*", True)):
        playground.locator("#sub-channel").fill(channel)
        playground.locator("#sub-pattern").set_checked(is_pattern)
        playground.get_by_role("button", name="Subscribe", exact=True).click()
    one, all = playground.locator("#subscriptions > li").all()
    for panel in (one, all):
        expect(panel.get_by_text("subscribed", exact=True)).to_be_visible()

    def publish(channel, value):
        playground.locator("#pub-channel").fill(channel)
        playground.locator("#pub-args").fill(json.dumps(value))
        playground.keyboard.press("Control+Enter")

    publish("a.one", {"n": 2**60})
    publish("a.two", "text")
    expect(one.locator(".took")).to_have_text("1 event")
    expect(all.locator(".took")).to_have_text("2 events")
    expect(all.locator(".channel").first).to_have_text("a.two")
    one.get_by_label("pause").check()
    publish("a.one", 3)
    expect(one.locator(".took")).to_have_text("2 events, 1 new one")
    expect(one.locator(".events li")).to_have_count(1)
    one.get_by_label("pause").uncheck()
    expect(one.locator(".events li")).to_have_count(2)
    expect(one).to_contain_text(str(2**60))
    playground.evaluate(
        """async () => { const { Client } = await import("/juggler.js"); const client = new Client("/ws");
        for (let n = 0; n < 150; n++) await client.publish("a.two", n); client.close(); }"""
    )
    expect(all.locator(".took")).to_have_text("153 events")
    expect(all.locator(".events > li")).to_have_count(100)
    playground.get_by_role("button", name="Unsubscribe from a.*").click()
    expect(playground.locator("#subscriptions > li")).to_have_count(1)


def test_the_log_has_expired_calls_and_the_connection(playground):
    pick(playground, "sys.sleep")
    playground.get_by_label("seconds", exact=True).fill("0.5")
    playground.locator("#call-timeout").fill("0.05")
    call(playground)
    log = playground.locator("#log")
    expect(log.locator('[data-type="EXP"]')).to_contain_text("no result of sys.sleep within 0.05 s")
    expect(log.locator('[data-type="CONN"]').first).to_contain_text("connected to ws://127.0.0.1")
    call_entry = log.locator('[data-type="CALL"]')
    call_entry.locator("summary").first.click()
    expect(call_entry.locator(".json")).to_contain_text('"uri": "sys.sleep"')
    # The calls of the page itself are left out.
    assert "juggler." not in log.inner_text()


def test_functions_come_and_go_with_their_callees(playground, redis_of_shop):
    groups = playground.locator("#uris summary span:first-child")
    expect(groups).to_have_text(["orders", "sys", "tree", "users"])
    with callee_process(redis_of_shop):
        expect(groups).to_have_text(["orders", "sys", "test", "tree", "users"])
        pick(playground, "test.reverse")
        playground.locator("#args-form input").fill("being written")
    expect(groups).to_have_text(["orders", "sys", "tree", "users"])
    expect(playground.locator("#args-form input")).to_have_value("being written")
    expect(playground.locator("#args-form input")).to_be_focused()
    playground.locator("#uris summary").nth(1).click()
    expect(playground.locator('#uris [data-uri="sys.echo"]')).to_be_hidden()
    playground.locator("#filter-functions").fill("echo")
    expect(playground.locator('#uris [data-uri="sys.echo"]')).to_be_visible()


def test_the_fleet_is_shown_where_it_is_allowed(playground, page, site):
    playground.get_by_role("button", name="Fleet").click()
    fleet = playground.locator("#fleet")
    expect(fleet.locator(".tile", has_text="Servers").locator("strong")).to_have_text("1")
    expect(fleet.locator(".tile", has_text="Callees").locator("strong")).to_have_text("1")
    expect(fleet.locator("table", has_text="URI").locator("tbody tr")).to_have_count(FUNCTIONS)
    page.goto(f"{site}#view=fleet")
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.get_by_role("button", name="Fleet")).to_be_hidden()
    expect(page.locator("#call-section")).to_be_visible()


def test_shortcuts(playground):
    keys = playground.keyboard
    keys.press("Control+k")
    expect(playground.locator("#filter-functions")).to_be_focused()
    keys.type("sleep")
    keys.press("Enter")
    expect(playground.locator("#call-uri")).to_have_value("sys.sleep")
    expect(playground.get_by_label("seconds", exact=True)).to_be_focused()
    keys.press("Control+a")
    keys.type("5")
    keys.press("Control+Enter")
    expect(playground.locator("#cancel-button")).to_be_enabled()
    keys.press("Escape")
    expect(playground.locator("#answer")).to_have_text("cancelled; the function may still run")
    for number, shown in ((2, "#talk"), (3, "#fleet"), (1, "#call-section")):
        keys.press(f"Alt+{number}")
        expect(playground.locator(shown)).to_be_visible()
    playground.locator("#filter-functions").fill("")
    playground.locator("#filter-functions").focus()
    for _ in range(3):
        keys.press("ArrowDown")
    keys.press("Enter")
    expect(playground.locator("#call-uri")).to_have_value("orders.watch")
    playground.get_by_role("button", name="Keyboard shortcuts").click()
    expect(playground.get_by_role("dialog")).to_be_visible()
    keys.press("Escape")
    expect(playground.get_by_role("dialog")).to_be_hidden()


@pytest.mark.parametrize("context", [{"viewport": {"width": 1400, "height": 900}}, PHONE], indirect=True)
def test_every_view_is_accessible_and_fits(playground):
    pick(playground, "orders.place")
    playground.get_by_label("sku", exact=True).fill("")
    playground.get_by_label("customer", exact=True).fill("w" * 300)
    call(playground)
    check(playground)
    playground.get_by_label("sku", exact=True).fill("tea")
    call(playground)
    expect(playground.locator("#answer .json")).to_be_visible()
    playground.locator("#history-box summary").click()
    check(playground)
    playground.get_by_role("button", name="Events").click()
    playground.locator("#sub-channel").fill("c" * 200)
    playground.get_by_role("button", name="Subscribe", exact=True).click()
    playground.locator("#pub-args").fill(json.dumps("e" * 500))
    playground.get_by_role("button", name="Publish").click()
    expect(playground.locator(".events li")).to_have_count(1)
    check(playground)
    playground.get_by_role("button", name="Fleet").click()
    expect(playground.locator("#fleet table").first).to_be_visible()
    check(playground)
    messages = playground.locator("nav").get_by_role("button", name="Messages")
    if messages.is_visible():
        messages.click()
        check(playground)
    playground.locator("#state").click()
    check(playground)


def check(page):
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
