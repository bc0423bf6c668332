"""Every call has an answer in JSON, which is marked where its shape could mislead."""

from __future__ import annotations

import json
import math
import time
import traceback
from dataclasses import dataclass

import msgspec
import pytest

from callee import Callee, CallError, InvalidArguments, current_call, time_left
from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.failures import InvalidResult, ProcessDied, TimeLimitExceeded
from juggler.errors import InvalidValue


def run(function, text=b"null", **options):
    rpc = Callee()
    rpc.register("f", function, **{"whole": True, **options})
    call = IncomingCall("conn", "msg", "f", text, time.monotonic() + 60, 0.25, pytest.fail)
    return answer.run(rpc["f"], call)


@pytest.mark.parametrize("text", [b"null", b'{"a":[1,2.5,"x",true]}', '"ünï ☃"'.encode(), b"12345678901234567890123"])
def test_the_function_gets_the_decoded_args_and_its_value_is_encoded(text):
    seen = []
    result = run(lambda value: seen.append(value) or value, text)
    assert seen == [json.loads(text)]
    assert json.loads(result.args) == json.loads(text)
    assert result.failed is None


@dataclass
class Item:
    name: str
    price: float = 1.5


@pytest.mark.parametrize(
    ("value", "text"), [(Item("tea"), b'{"name":"tea","price":1.5}'), ({1}, b"[1]"), ((1, "a"), b'[1,"a"]')]
)
def test_results_of_many_kinds_can_be_sent(value, text):
    assert run(lambda _: value) == Answer(text, None)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, b"bytes", {object()}, object(), Item("x", math.nan)],
    ids=["nan", "inf", "bytes", "set", "object", "nested-nan"],
)
def test_a_result_that_json_cannot_carry_is_an_error_that_names_it(value):
    with pytest.raises(
        InvalidResult, match=r"the function's result cannot be encoded as JSON: .*(NaN|bytes|set|object)"
    ):
        run(lambda _: value)


def test_an_endless_result_is_an_error():
    endless = []
    endless.append(endless)
    with pytest.raises(InvalidResult, match="circular"):
        run(lambda _: endless)


def test_args_that_cannot_be_decoded_never_reach_the_function():
    with pytest.raises(InvalidValue, match="not a JSON value"):
        run(pytest.fail, b"[1,")


def test_a_raw_function_gets_the_call_and_may_write_json_itself():
    def echo(call):
        assert (call.uri, call.conn_uuid, call.msg_uuid, call.waited) == ("f", "conn", "msg", 0.25)
        assert call.value == [1.0]
        assert 59 < call.time_left() <= 60
        assert not call.given_up()
        return msgspec.Raw(call.args)

    assert run(echo, b"[1.00]", raw=True, whole=False) == Answer(b"[1.00]", False)


def test_json_that_is_none_is_an_error():
    with pytest.raises(InvalidResult, match="the function's result cannot be encoded as JSON: not a JSON value"):
        run(lambda _: msgspec.Raw(b"[1"))


def test_a_result_that_looks_like_an_error_says_that_it_is_none():
    assert run(lambda _: {"error": {"message": "x"}}) == Answer(b'{"error":{"message":"x"}}', False)
    assert run(lambda _: {"errors": 0}).failed is None


def test_the_running_call_is_known_while_it_runs():
    assert run(lambda _: [current_call().uri, time_left() > 59]).args == b'["f",true]'
    with pytest.raises(RuntimeError, match="no call is running here"):
        current_call()


def told(exception, **options):
    found = answer.error(exception, **options)
    assert found.failed is True
    return json.loads(found.args)["error"]


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
    assert told(exception) == {"message": message, "type": type_}


def test_an_error_for_the_caller_says_more():
    error = CallError("not enough", code=402, data={"missing": 3})
    expected = {"message": "not enough", "type": "CallError", "code": 402, "data": {"missing": 3}}
    assert told(error) == told(error, mask=True) == expected
    assert told(InvalidArguments("a: missing"), mask=True) == {
        "message": "a: missing",
        "type": "InvalidArguments",
        "code": 400,
    }


def test_what_is_masked_names_only_the_call():
    error = told(ValueError("secret"), call_id="123", mask=True)
    assert error == {"message": "internal error, call 123", "type": "Internal"}


@pytest.mark.parametrize("error", [TimeLimitExceeded("time limit of 3 s"), ProcessDied("exit status 9")])
def test_errors_of_the_worker_are_not_masked(error):
    assert told(error, mask=True) == {"message": str(error), "type": type(error).__name__}


def test_data_that_cannot_be_sent_does_not_hide_the_error():
    error = told(CallError("no", code=1, data=b"x"))
    assert (error["message"], error["code"]) == ("no", 1)
    assert "bytes cannot be sent as JSON" in error["data"]


def test_an_error_of_ones_own_need_not_say_all():
    @dataclass
    class Mine(CallError):
        need: int

    assert told(Mine(3))["type"] == "Mine"


class OutOfStock(Exception):
    def __json__(self):
        return json.dumps({"out_of_stock": self.args[0]})


class Refusal(CallError):
    def __json__(self):
        return json.dumps([self.message, self.code])


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    ("exception", "text"),
    [(OutOfStock("tea"), b'{"out_of_stock": "tea"}'), (Refusal("no", code=7), b'["no", 7]')],
)
def test_an_exception_may_define_its_json(exception, text, mask):
    assert answer.error(exception, "123", mask) == Answer(text, True)
    assert answer.is_for_caller(exception)


@pytest.mark.parametrize("text", [None, "{", b"\xff", "NaN"])
def test_json_of_an_exception_that_is_none_is_logged_and_hides_nothing(text, caplog):
    class Broken(Exception):
        def __json__(self):
            return text

    assert told(Broken("why")) == {"message": "why", "type": "Broken"}
    assert told(Broken("why"), call_id="123", mask=True)["message"] == "internal error, call 123"
    assert "call: __json__ of an exception failed type=Broken" in caplog.text


def test_a_code_that_cannot_be_sent_does_not_hide_the_error():
    assert told(CallError("no", code=math.nan))["message"] == "no"


def test_an_exception_without_a_text_is_told_by_its_name():
    class Rude(Exception):
        def __str__(self):
            raise ValueError

    assert told(Rude()) == {"message": "Rude", "type": "Rude"}


def test_a_traceback_begins_in_the_function():
    def outer(_):
        return inner()

    def inner():
        raise ValueError("deep")

    with pytest.raises(ValueError, match="deep") as raised:
        run(outer)
    # Without the frames of this test and of its `run`.
    raised.value.__traceback__ = raised.value.__traceback__.tb_next.tb_next
    assert "run(_run, thunk, call)" in traceback.format_exception(raised.value)[1]
    shown = traceback.extract_tb(answer.without_library_frames(raised.value).__traceback__)
    assert [frame.name for frame in shown] == ["outer", "inner"]
