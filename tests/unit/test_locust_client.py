"""juggler.locust.client: names and failures in the statistics. No connection is made."""

from __future__ import annotations

import pytest

from juggler.errors import CallFailed, ConnectionClosed, Expired, JugglerError, Nacked
from juggler.locust.client import FailedCall, check_expected, matching

SOLD_OUT = CallFailed("sold out", "SoldOut", "sold_out")
PAYMENT = CallFailed("no money", "CallError", 402)
TOO_MANY = Nacked(429, "too many calls")


@pytest.mark.parametrize(
    ("error", "expected", "name"),
    [
        (SOLD_OUT, ("SoldOut",), "SoldOut"),
        (SOLD_OUT, ("Other", "sold_out"), "sold_out"),
        (SOLD_OUT, ("Other", 429), ""),
        (SOLD_OUT, (CallFailed,), "CallFailed"),
        (PAYMENT, (402,), "402"),
        (TOO_MANY, (503, 429), "429"),
        (TOO_MANY, ("429",), ""),
        (TOO_MANY, (CallFailed, Nacked), "Nacked"),
        (Expired("no result"), (Expired,), "Expired"),
        (ConnectionClosed(1006, "lost"), (1006,), ""),
        (TOO_MANY, (), ""),
    ],
)
def test_an_expected_error_gives_its_name(error, expected, name):
    assert matching(error, check_expected(expected)) == name


@pytest.mark.parametrize("wrong", [None, 4.29, True, ValueError, SOLD_OUT, object])
def test_what_cannot_be_expected(wrong):
    with pytest.raises(TypeError, match="expected the type or the code of an error, or a class of JugglerError, got "):
        check_expected((429, wrong))
    assert check_expected((JugglerError, "SoldOut", 429)) == (JugglerError, "SoldOut", 429)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (FailedCall("sold out", "SoldOut"), "SoldOut('sold out')"),
        (FailedCall("sold out"), "CallFailed('sold out')"),
        (FailedCall("no money", "CallError", 402), "CallError('no money', code=402)"),
        (
            FailedCall("internal error, call 00000000-0012-8ca1-8010-00018ef64b22", "Internal"),
            "Internal('internal error, call …')",
        ),
        (FailedCall("x" * 1000, "Long"), f"Long('{'x' * 200}')"),
    ],
)
def test_failures_are_grouped_by_what_is_shown(error, shown):
    assert repr(error) == shown
