"""Announcements of callees are listed until they expire."""

from __future__ import annotations

import pytest
from msgspec import UNSET, Raw

from juggler.broker import Announcement
from tests.recorders import pop_all
from tests.support import eventually

ADD = Announcement(signature="(a: int, b: int) -> int", doc="Add.", rate=2.0)
LONG = 60.0


def served(broker, *uris):
    """Return which URIs are announced."""
    told = []
    broker.ask_served(uris, told.append)
    eventually(lambda: told, message="on_served")
    (known,) = told
    return known


@pytest.fixture
def withdrawing(caller, callee):
    """Announce functions, and withdraw them after the test."""
    announced = []

    def announce(callee_id, functions, lifetime=LONG):
        announced.append((callee_id, tuple(functions)))
        callee.announce(callee_id, functions, lifetime)
        served(callee, *functions)  # by now it is written

    yield announce
    for callee_id, uris in announced:
        callee.withdraw(callee_id, uris)
    eventually(lambda: not caller.functions())


def test_a_uri_without_an_announcement_is_not_served(caller):
    assert served(caller, "math.add", "math.sub") == {"math.add": False, "math.sub": False}
    assert caller.functions() == []


def test_an_announced_uri_is_served(caller, callee, withdrawing):
    withdrawing("one", {"math.add": ADD})
    assert served(caller, "math.sub", "math.add") == {"math.add": True, "math.sub": False}
    (function,) = caller.functions()
    assert (function.uri, function.signature, function.doc) == ("math.add", ADD.signature, "Add.")
    assert (function.callees, function.rate, function.waiting) == (1, 2.0, 0)


def test_callees_are_counted_and_their_rates_added(caller, callee, withdrawing):
    withdrawing("one", {"math.add": ADD, "math.sub": Announcement()})
    withdrawing("two", {"math.add": ADD})
    withdrawing("two", {"math.add": ADD})
    functions = caller.functions()
    assert [(f.uri, f.callees, f.rate) for f in functions] == [("math.add", 2, 4.0), ("math.sub", 1, 0.0)]
    assert [f.uri for f in caller.functions(limit=1)] == ["math.add"]


def test_schemas_are_listed_up_to_a_total_size(caller, withdrawing):
    schema = Raw(b'{"args":{"title":"\xc3\xa9"}}')
    withdrawing("one", {"a": Announcement(schema=schema), "b": ADD, "c": Announcement(schema=schema)})

    assert [bytes(each.schema) for each in caller.functions() if each.schema is not UNSET] == [bytes(schema)] * 2
    few = caller.functions(max_schemas=2 * len(bytes(schema)) - 1)
    assert [each.uri for each in few] == ["a", "b", "c"]
    assert [each.uri for each in few if each.schema is not UNSET] == ["a"]


@pytest.mark.parametrize("newer", ["one", "two"])
def test_an_older_callee_hides_no_schema(caller, withdrawing, newer):
    schema = Raw(b'{"args":{}}')
    for callee_id in ("one", "two"):
        new = Announcement(signature="(new)", schema=schema)
        withdrawing(callee_id, {"f": new if callee_id == newer else Announcement(signature="(old)")})
    (function,) = caller.functions()
    assert (function.signature, bytes(function.schema), function.callees) == ("(new)", bytes(schema), 2)


def test_a_withdrawn_uri_is_not_served(caller, callee, withdrawing):
    withdrawing("one", {"math.add": ADD})
    withdrawing("two", {"math.add": ADD})
    callee.withdraw("one", ["math.add"])
    served(callee, "math.add")
    assert served(caller, "math.add") == {"math.add": True}
    assert caller.functions()[0].callees == 1
    callee.withdraw("two", ["math.add"])
    served(callee, "math.add")
    assert served(caller, "math.add") == {"math.add": False}
    assert caller.functions() == []


def test_announcements_expire(caller, callee, withdrawing):
    withdrawing("one", {"math.add": ADD, "math.sub": ADD}, 0.05)
    withdrawing("two", {"math.add": ADD})
    eventually(lambda: not served(caller, "math.sub")["math.sub"])
    assert served(caller, "math.add") == {"math.add": True}
    assert [(f.uri, f.callees) for f in caller.functions()] == [("math.add", 1)]


def test_queued_calls_are_counted(caller, callee, withdrawing, call):
    withdrawing("one", {"math.add": ADD})
    call(caller, "math.add")
    assert caller.functions()[0].waiting == 1
    consumer = callee.calls(["math.add"])
    pop_all(consumer, 1)
    consumer.close()
