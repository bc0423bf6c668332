"""The slow reader is as strict as the stdlib's, and gives back the very text."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from juggler.protocol import rawjson

ALMOST_JSON = st.text(alphabet='{}[]:,"\\ud8aentrlsf01.-+ \n\x01NI', max_size=30)


def refuse(constant: str) -> None:
    raise ValueError(constant)


def reference(text: str) -> object:
    return json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("{}", {}),
        (" { } ", {}),
        ('{"a":1}', {"a": "1"}),
        ('\t{ "a" : [ 1 ] , "b" : "\\ud800" }\r\n', {"a": "[ 1 ]", "b": '"\\ud800"'}),
        ('{"\\u0061":1e400}', {"a": "1e400"}),
        ('{"a":1,"a":{"a":1,"a":2}}', {"a": '{"a":1,"a":2}'}),
        ('{"\\ud800":1}', {"\ud800": "1"}),
    ],
)
def test_members_keep_their_text(text: str, members: dict[str, str]) -> None:
    assert rawjson.members(text) == members


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "{",
        '{"a"',
        '{"a":',
        '{"a":1',
        '{"a":1,}',
        '{"a" 1}',
        "{1:2}",
        '{"a":1}x',
        '{"a":NaN}',
        '{,"a":1}',
    ],
)
def test_what_is_not_an_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rawjson.members(text)


@given(ALMOST_JSON)
@example("[1, NaN]")
@example("-Infinity")
@example("01")
@example('"\x01"')
@example('"\\u12g4"')
@example("1 2")
@example("٣")
def test_check_agrees_with_the_stdlib(text: str) -> None:
    assert accepts(rawjson.check, text) == accepts(reference, text)


@given(ALMOST_JSON.map(lambda text: '{"a":' + text + "}"))
def test_members_agree_with_the_stdlib(text: str) -> None:
    assert accepts(rawjson.members, text) == accepts(reference, text)
    if accepts(reference, text):
        assert {name: reference(part) for name, part in rawjson.members(text).items()} == reference(text)


def accepts(read: object, text: str) -> bool:
    try:
        read(text)  # type: ignore[operator]
    except ValueError:
        return False
    return True


def test_integers_are_not_converted() -> None:
    digits = "9" * 100_000

    assert rawjson.members(f'{{"a":{digits}}}') == {"a": digits}


def test_nesting_has_an_end() -> None:
    with pytest.raises(RecursionError):
        rawjson.check("[" * 200_000)
