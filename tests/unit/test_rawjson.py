"""The slow reader is as strict as the stdlib's, and gives back the very text."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from juggler.errors import InvalidMessage
from juggler.protocol import rawjson
from juggler.protocol.codec import decode_request

ALMOST_JSON = st.text(alphabet='{}[]:,"\\ud8aentrlsf01.-+ \n\x01NI', max_size=30)


def refuse(constant: str) -> None:
    raise ValueError(constant)


def reference(text: str) -> object:
    return json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)


MARKS = "~^`|@%$#&*;<>?!=()_\x7f"


@pytest.mark.parametrize(
    "text",
    [
        r'"\ud800"',
        r'"\uDFFF\udC00"',
        r'"\ud83d\ude00"',
        r'"\\ud800"',
        r'"\\\ud800"',
        r'"\\\\ud800"',
        r'"\\\\\ud800\\"',
        r'"\ud7ff\n\"\u0041\/"',
        r'"~~ud800 \ud800"',
        f'"{MARKS}' + r'\ud800\\"',
        f'"{MARKS}' + "".join(map(chr, range(0xE000, 0xE100))) + r'\ud800\\"',
    ],
)
def test_a_masked_text_is_restored(text: str) -> None:
    masked = rawjson.mask(text)
    assert masked.unmask(masked.text) == text
    assert msgspec.json.decode(masked.text)
    rawjson.check(text)
    value = json.loads(text)
    try:
        value.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match=r"."):
            masked.unmask_string(msgspec.json.decode(masked.text))
    else:
        assert masked.unmask_string(msgspec.json.decode(masked.text)) == value


@pytest.mark.parametrize(
    "text", [r'"\udzzz"', r'"\ud80"', r'"\ud800', r"\ud800", r"\\", r'{"a":\ud800}', r"{\\:1}", r'"\\ud8"x']
)
def test_a_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rawjson.check(text)


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


@given(ALMOST_JSON.map(lambda text: '"\\ud800' + text + '"'))
def test_strings_agree_with_the_stdlib(text: str) -> None:
    assert accepts(rawjson.check, text) == accepts(reference, text)


@given(st.text(alphabet='\\ud8cf90aD"~^`', max_size=40))
def test_masking_is_reversible(text: str) -> None:
    try:
        masked = rawjson.mask(text)
    except ValueError:
        return
    assert masked.unmask(masked.text) == text


def accepts(read: object, text: str) -> bool:
    try:
        read(text)  # type: ignore[operator]
    except ValueError:
        return False
    return True


HEAD = '{"meta":{"type":1,"uuid":"00000000-0000-4000-8000-000000000001"},"payload":{"uri":"u","args":'
SIZE = 1_000_000
SHAPES = {
    "members": "{" + ",".join(f'"{n}":{n}' for n in range(75_000)) + "}",
    "small objects": "[" + ",".join(['{"a":1}'] * (SIZE // 8)) + "]",
    "numbers": "[" + ",".join(["1"] * (SIZE // 2)) + "]",
    "one number": "9" * SIZE,
    "surrogates": '"' + r"\ud800" * (SIZE // 6) + '"',
    "pairs": '"' + r"\ud83d\ude00" * (SIZE // 12) + '"',
    "backslashes": '"' + r"\\" * (SIZE // 2) + '"',
    "escapes": '"' + r"\n" * (SIZE // 2) + '"',
    "quotes": '"' + r"\"" * (SIZE // 2) + '"',
    "strings": "[" + ",".join(['""'] * (SIZE // 3)) + "]",
    "arrays": "[" + ",".join(["[]"] * (SIZE // 3)) + "]",
    "marks": '"' + MARKS * (SIZE // len(MARKS)) + '"',
    "characters": '"' + "".join(map(chr, range(0xE000, 0xE000 + 200_000))) + '"',
    "depth": "[" * 500 + "]" * 500,
    "malformed": '"' + r"\ud80" * (SIZE // 5) + '"',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_text_of_1_mb_is_slow(shape: str) -> None:
    for args in (SHAPES[shape], '["\\ud800",' + SHAPES[shape] + "]", "[" + SHAPES[shape] + ',"\\ud800"'):
        text = HEAD + args + "}}"
        times = []
        for _ in range(3):
            began = time.process_time()
            try:
                message = decode_request(text)
            except InvalidMessage:
                assert shape == "malformed" or args[-1] != "]"
            else:
                assert bytes(message.args).decode() == args
            times.append(time.process_time() - began)
        assert min(times) < 0.05


def test_nesting_has_an_end() -> None:
    with pytest.raises(RecursionError):
        rawjson.check("[" * 200_000)
