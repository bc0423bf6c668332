"""Every call has an answer, and it is JSON."""

from __future__ import annotations

import json
import math

import pytest

from callee import answer
from callee.answer import InvalidResult
from juggler.errors import InvalidValue


@pytest.mark.parametrize("text", [b"null", b'{"a":[1,2.5,"x",true]}', '"ünï ☃"'.encode(), b"12345678901234567890123"])
def test_the_function_gets_the_decoded_args_and_its_value_is_encoded(text):
    seen = []
    result = answer.run(lambda value: seen.append(value) or value, text)
    assert seen == [json.loads(text)]
    assert json.loads(result) == json.loads(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1}, object()], ids=repr)
def test_a_result_that_json_cannot_carry_is_an_error_that_names_it(value):
    with pytest.raises(InvalidResult, match=r"the function's result cannot be sent: .*(NaN|bytes|set|object)"):
        answer.run(lambda _: value, b"null")


def test_an_endless_result_is_an_error():
    endless = []
    endless.append(endless)
    with pytest.raises(InvalidResult, match="circular"):
        answer.run(lambda _: endless, b"null")


def test_args_that_cannot_be_decoded_never_reach_the_function():
    with pytest.raises(InvalidValue, match="not a JSON value"):
        answer.run(pytest.fail, b"[1,")


@pytest.mark.parametrize(
    ("exception", "message", "type_"),
    [
        (ValueError("expected a string"), "expected a string", "ValueError"),
        (KeyError("name"), "'name'", "KeyError"),
        (RuntimeError(), "RuntimeError", "RuntimeError"),
        (SystemExit(3), "3", "SystemExit"),
        (ValueError("ünï \ud800 \x00"), "ünï \ud800 \x00", "ValueError"),
    ],
)
def test_an_exception_becomes_an_error(exception, message, type_):
    assert json.loads(answer.error(exception)) == {"error": {"message": message, "type": type_}}


def test_an_exception_without_a_text_is_told_by_its_name():
    class Rude(Exception):
        def __str__(self):
            raise ValueError

    assert json.loads(answer.error(Rude())) == {"error": {"message": "Rude", "type": "Rude"}}
