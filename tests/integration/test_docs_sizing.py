"""docs/sizing.md: its tables follow from its formula, and the formula from the measurements of docs/performance.md."""

from __future__ import annotations

import re

import pytest

from tests.docs import DOCS, run_blocks

PAGE = (DOCS / "sizing.md").read_text("utf-8")
ROWS = [
    [int(cell.replace(",", "").removesuffix(" MB")) for cell in line.strip("| ").split(" | ")]
    for line in re.findall(r"^\| [\d,]+ \| .*$", PAGE, re.MULTILINE)
]


@pytest.fixture(scope="module")
def page():
    return run_blocks("sizing.md")


@pytest.mark.parametrize("row", ROWS[:4], ids=str)
def test_the_first_table(page, row):
    clients, calls, events, servers, masters, callees, memory = row
    found = page["needed"](clients, calls, events, function_cpu=0.001, function_time=0.02)
    assert found == {"servers": servers, "masters": masters, "callees": callees, "memory": memory}


@pytest.mark.parametrize("row", ROWS[4:], ids=str)
def test_the_chat(page, row):
    clients, calls, events, deliveries, servers, masters, callees = row
    assert (len(ROWS), deliveries) == (7, 50 * events)
    found = page["needed"](clients, calls, events, 50, function_cpu=0.001, function_time=0.02)
    assert (found["servers"], found["masters"], found["callees"]) == (servers, masters, callees)


def test_the_rule_of_thumb_follows_from_the_costs(page):
    call, core = page["CALL"], page["BUSY"] / page["MICROSECOND"]
    event = page["EVENT"] + page["DELIVERY"]
    rates = [core / each for each in (call["server"], call["callee"], call["redis"], event, page["DELIVERY"])]
    shown = [
        int(each.replace(",", "")) for each in re.findall(r"([\d,]+)(?: a second)? per ", PAGE.split("## Formula")[0])
    ]
    assert len(shown) == 5
    assert all(0.8 < number / rate < 1.2 for number, rate in zip(shown, [rates[0], *rates[1:]], strict=True))


def test_the_costs_are_those_that_were_measured(page):
    measured = (DOCS / "performance.md").read_text("utf-8")
    for text in (
        f"100,000 calls/s at {page['CALL']['server']} µs",
        f"100,000 calls/s at {page['CALL']['redis']} µs",
        f"{page['CALL']['callee']} µs a call",
        f"100,000 events/s at {page['EVENT'] + page['DELIVERY']} µs",
        f"the server {page['DELIVERY']} µs for each",
        f"100,000 events/s at {page['REDIS_EVENT']} µs",
        f"{page['PING']} µs with the pong",
        f"{page['CLIENT'] * 1000:.1f} KB an idle subscriber",
        "180 µs a connection",
        f"{page['PROCESS'] + 20_000 * page['CLIENT']:.0f} MB of memory each",
    ):
        assert re.search(text.replace(" ", r"\s+"), measured), text
