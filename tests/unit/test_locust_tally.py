"""juggler.locust.tally: violated equations are found."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from juggler.locust.tally import Tally, server_disagreements
from juggler.locust.violations import Violations


def tally(**changes):
    """Return a tally without disagreements."""
    found = Tally(
        sent=Counter(CALL=10, PUB=4, SUB=2, UNSB=1, CNCL=2, AUTH=1),
        acked=Counter(CALL=8, PUB=3, SUB=2, UNSB=1, CNCL=1, AUTH=1),
        nacked=Counter(CALL=1, PUB=1, CNCL=1),
        lost=Counter(CALL=1),
        answered=5,
        expired=1,
        replaced=1,
        lost_calls=1,
        late=1,
        events=9,
        due=5,
        uncertain=3,
        foreign=2,
        parts=7,
        connections=1,
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_a_tally_that_agrees():
    assert tally().disagreements() == []
    assert Tally().disagreements() == []


@pytest.mark.parametrize("name", ["answered", "expired", "replaced", "lost_calls", "cancelled", "unfinished"])
@pytest.mark.parametrize("step", [1, -1])
def test_one_result_too_many_or_too_few(name, step):
    wrong = tally()
    setattr(wrong, name, getattr(wrong, name) + step)
    (line,) = wrong.disagreements()
    assert line == f"CALL: 8 acknowledged, but {8 + step} answered, expired, cancelled or lost"


@pytest.mark.parametrize("name", ["acked", "nacked", "lost"])
@pytest.mark.parametrize("type", ["PUB", "SUB", "UNSB"])
def test_one_response_too_many(name, type):
    wrong = tally()
    getattr(wrong, name)[type] += 1
    (line,) = wrong.disagreements()
    assert line.startswith(f"{type}: ")


@pytest.mark.parametrize("type", ["CALL", "PUB", "SUB", "UNSB"])
@pytest.mark.parametrize("step", [1, -1])
def test_one_request_too_many_or_too_few(type, step):
    wrong = tally()
    wrong.sent[type] += step
    (line,) = wrong.disagreements()
    assert line.startswith(f"{type}: {wrong.sent[type]} sent, but ")


@pytest.mark.parametrize(("events", "agree"), [(6, False), (7, True), (10, True), (11, False)])
def test_events(events, agree):
    assert (tally(events=events).disagreements() == []) is agree


def counted(**changes):
    figures = {
        ("in", "CALL"): 10.0,
        ("in", "PUB"): 4.0,
        ("in", "SUB"): 2.0,
        ("in", "UNSB"): 1.0,
        ("in", "CNCL"): 2.0,
        ("in", "AUTH"): 1.0,
        ("out", "ACK"): 16.0,
        ("out", "NACK"): 4.0,
        ("out", "RES"): 6.0,
        ("out", "EVNT"): 9.0,
        ("out", "PART"): 7.0,
    }
    for key in figures:
        figures[key] += changes.get(key[1], 0)
    return figures


def test_the_server_agrees():
    assert server_disagreements(tally(), counted()) == []
    assert server_disagreements(Tally(), {}) == []


@pytest.mark.parametrize("type", ["CALL", "PUB", "SUB", "UNSB", "CNCL", "AUTH", "ACK", "NACK", "RES", "EVNT", "PART"])
def test_the_server_disagrees(type):
    (line,) = server_disagreements(tally(), counted(**{type: -1}))
    assert line.startswith(f"{type}: the server counted ")


def test_json_and_sums():
    sum_ = Tally()
    for _ in range(2):
        sum_.add(Tally.from_json(json.loads(json.dumps(tally().to_json()))))
    assert (sum_.sent["CALL"], sum_.answered, sum_.events, sum_.late) == (20, 10, 18, 2)
    assert sum_.disagreements() == []


def test_the_table_has_every_count():
    text = "\n".join(tally().lines())
    for figure in ("10", "5 answered", "1 expired", "1 late", "9 received", "5 due", "3 uncertain", "2 foreign"):
        assert figure in text


def test_faults_have_a_limited_number_of_examples():
    violations = Violations()
    assert not violations
    for number in range(Violations.EXAMPLES + 2):
        violations.add("odd", f"number {number}")
    violations.add("even")
    assert violations
    assert violations.lines() == ["1 x even", "5 x odd (number 0; number 1; number 2)"]
