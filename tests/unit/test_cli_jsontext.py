"""JSON on command lines: what is sent, and the errors of invalid JSON."""

from __future__ import annotations

import pytest

from juggler.cli.jsontext import checked, read_json


@pytest.mark.parametrize("text", ["1e400", '{"a":1,"a":2}', '"\\ud800"', "0.10", '"é"', 5000 * "9", "-0"])
def test_json_is_unchanged(text):
    assert checked(f" \r\n\t{text}\n".encode()) == text.encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a": }', "not JSON at line 1, column 7: Expecting value, before }"),
        (b"[1,\n 2,\n x]", "not JSON at line 3, column 2: Expecting value, before x]"),
        (b"", "not JSON at line 1, column 1: Expecting value, at the end"),
        (b"hello to everybody, and more", "line 1, column 1: Expecting value, before hello to everybody, …"),
        (b"[1] 2", "not JSON at line 1, column 5: Extra data, before 2"),
        (b'"two\nlines"', "Invalid control character at, at the end of the line"),
        (b"[NaN]", "NaN and Infinity are not JSON"),
        (b'"\xff"', "not UTF-8"),
        (100_000 * b"[", "nested too deeply|Expecting value"),
    ],
)
def test_an_error_has_line_and_column(text, why):
    with pytest.raises(ValueError, match=why):
        checked(text)


def test_json_from_a_file(tmp_path):
    (tmp_path / "args.json").write_text(" [1] \n")
    assert read_json(f"@{tmp_path}/args.json") == b"[1]"
    with pytest.raises(ValueError, match=r"cannot read .*: Is a directory"):
        read_json(f"@{tmp_path}")


def test_standard_input_is_optional():
    with pytest.raises(ValueError, match="not JSON at line 1, column 1"):
        read_json("-", from_stdin=False)
