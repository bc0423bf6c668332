"""Parsing and running of lines typed into ``juggler client``."""

from __future__ import annotations

import pytest

from juggler.cli.terminal.actions import Actions
from juggler.cli.terminal.client_connection import Shared
from juggler.cli.terminal.connections import Connections
from juggler.cli.terminal.grammar import COMMANDS, InputError, ParsedLine, parse, quoted, split_word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (" \t\n", None),
        ("list", ParsedLine("list")),
        ("call test.echo", ParsedLine("call", ("test.echo", None))),
        ('  call  test.echo   {"a":  1} ', ParsedLine("call", ("test.echo", '{"a":  1}'))),
        ("call test.echo [1,\n 2]", ParsedLine("call", ("test.echo", "[1,\n 2]"))),
        ("call x not json", ParsedLine("call", ("x", "not json"))),
        ('sub "my \\u00e9 channel"', ParsedLine("sub", ("my é channel",))),
        ('pub "my channel" "text"', ParsedLine("pub", ("my channel", '"text"'))),
        ("psub news.*", ParsedLine("psub", ("news.*",))),
        ("send  any  text ", ParsedLine("send", ("any  text",))),
        ("rand 0", ParsedLine("rand", (0,))),
        ("connect", ParsedLine("connect", (None,))),
        ("use 12", ParsedLine("use", (12,))),
        ("close", ParsedLine("close", (None, None))),
        ("close 4999 bye, all", ParsedLine("close", (4999, "bye, all"))),
        ("raw on", ParsedLine("raw", (True,))),
        ("raw off", ParsedLine("raw", (False,))),
        ("timeout 0.5", ParsedLine("timeout", (0.5,))),
        ("help call", ParsedLine("help", (COMMANDS["call"],))),
    ],
)
def test_a_line_is_parsed(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cal x", "unknown command: 'cal'; did you mean call\\?"),
        ("zzz", "unknown command: 'zzz'; type help for a list"),
        ("call", r"missing URI; usage: call URI \[JSON\]"),
        ("send", "missing TEXT; usage: send TEXT"),
        ("sub a b", "unexpected 'b'; usage: sub CHANNEL"),
        ("list all", "unexpected 'all'; usage: list"),
        ('sub "a', "unterminated JSON string"),
        ('sub "a"b', "expected a space after"),
        ("rand -1", "expected a number of bytes from 0 to 16777216, got '-1'"),
        ("rand 16777217", "expected a number of bytes"),
        ("rand ²", "expected a number of bytes"),
        ("rand 1_0", "expected a number of bytes"),
        ("use x", "expected the number of a connection"),
        *(
            (f"close {code}", "expected a close code of 1000 to 1003")
            for code in (999, 1004, 1005, 1006, 1015, 2999, 5000)
        ),
        ("close 4000 " + 62 * "é", "expected a reason of at most 123 bytes in UTF-8, got 124"),
        ("raw maybe", "expected on or off, got 'maybe'"),
        ("timeout 0", "expected seconds greater than 0 and at most 86400"),
        ("timeout nan", "expected seconds greater than 0"),
        ("help zzz", "unknown command"),
    ],
)
def test_an_error_names_what_was_expected(text, why):
    with pytest.raises(InputError, match=why):
        parse(text)


@pytest.mark.parametrize("name", ["plain", "two words", 'with "quotes"', '"', "tab\t", "é", ""])
def test_a_quoted_name_is_parsed_back(name):
    assert split_word(f"{quoted(name)} rest") == (name, "rest")
    assert quoted("plain") == "plain"


def test_every_command_has_an_action():
    shared = Shared(show=lambda line: None)
    assert set(Actions(Connections(shared, "ws://nowhere/"), shared).by_command) == set(COMMANDS)


def test_a_parameter_to_the_end_of_the_line_comes_last():
    for command in COMMANDS.values():
        assert not any(parameter.takes_rest for parameter in command.parameters[:-1])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('call x {"a": }', "not JSON at line 1, column 7: Expecting value, before }"),
        ("pub x @/nowhere/at/all", "cannot read /nowhere/at/all: No such file or directory"),
        ("call x -", "not JSON at line 1, column 1"),
        ("call x 1", "no connection; type connect to open one to ws://\\*\\*\\*@nowhere/"),
        ("use 3", "no connection 3; type list"),
    ],
)
def test_an_impossible_command_is_an_error(text, why):
    shared = Shared(show=lambda line: None)
    with pytest.raises(InputError, match=why):
        Actions(Connections(shared, "ws://me:s3cret@nowhere/"), shared).run(parse(text))
