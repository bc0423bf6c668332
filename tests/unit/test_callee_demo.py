"""The demo functions behave as documented in docs/protocol.md."""

from __future__ import annotations

import pytest

from callee import CallError, InvalidArguments
from juggler.callee import demo


@pytest.mark.parametrize("value", ["text", 1, None, {"a": [1]}])
def test_echo_returns_its_argument(value):
    assert demo.rpc["test.echo"](value) == value


def test_reverse_is_by_characters():
    assert demo.rpc["test.reverse"]("abc ☃ 𝄞") == "𝄞 ☃ cba"


@pytest.mark.parametrize("value", [1, None, ["a"]])
def test_reverse_needs_a_string(value):
    with pytest.raises(InvalidArguments, match="text: Expected str, got"):
        demo.rpc["test.reverse"](value)


@pytest.mark.parametrize("text", ["0", "1", "007", "+5", "-5", "-0", "-999999999"])
def test_delay_takes_a_string_and_answers_the_number(text):
    assert demo.rpc["test.delay"](text) == int(text)


@pytest.mark.parametrize("value", [1, None])
def test_delay_needs_a_string(value):
    with pytest.raises(InvalidArguments, match="milliseconds: Expected str, got"):
        demo.rpc["test.delay"](value)


@pytest.mark.parametrize(
    "value", ["", "-", "+", "--1", "+-1", "+ 1", "1-", "1.5", " 1", "1_0", "x", "٣", "9" * 5000, "86400001"]
)
def test_delay_says_what_it_expects(value):
    with pytest.raises(CallError, match=r'expected milliseconds as a string of digits, as in "250", got .{1,60}$'):
        demo.rpc["test.delay"](value)


def test_many_delays_on_demand():
    assert list(demo.rpc) == ["test.echo", "test.reverse", "test.delay"]
    assert list(demo.make(delays=2)) == ["test.echo", "test.reverse", "test.delay", "test.delay.0", "test.delay.1"]
