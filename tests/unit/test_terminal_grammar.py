"""Lines that are typed into ``juggler client``, and how they are read."""

from __future__ import annotations

import pytest

from juggler.cli.terminal.actions import Actions
from juggler.cli.terminal.client_connection import Shared
from juggler.cli.terminal.connections import Connections
from juggler.cli.terminal.grammar import COMMANDS, Line, Mistake, parse, quoted, split_word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (" \t\n", None),
        ("list", Line("list")),
        ("call test.echo", Line("call", ("test.echo", None))),
        ('  call  test.echo   {"a":  1} ', Line("call", ("test.echo", '{"a":  1}'))),
        ("call test.echo [1,\n 2]", Line("call", ("test.echo", "[1,\n 2]"))),
        ("call x not json", Line("call", ("x", "not json"))),
        ('sub "my \\u00e9 channel"', Line("sub", ("my é channel",))),
        ('pub "my channel" "text"', Line("pub", ("my channel", '"text"'))),
        ("psub news.*", Line("psub", ("news.*",))),
        ("send  any  text ", Line("send", ("any  text",))),
        ("rand 0", Line("rand", (0,))),
        ("connect", Line("connect", (None,))),
        ("use 12", Line("use", (12,))),
        ("close", Line("close", (None, None))),
        ("close 4999 bye, all", Line("close", (4999, "bye, all"))),
        ("raw on", Line("raw", (True,))),
        ("raw off", Line("raw", (False,))),
        ("timeout 0.5", Line("timeout", (0.5,))),
        ("help call", Line("help", (COMMANDS["call"],))),
    ],
)
def test_a_line_is_read(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cal x", "no such command: 'cal'; is it call?"),
        ("zzz", "no such command: 'zzz'; help lists them"),
        ("call", r"URI is missing: call URI \[JSON\]"),
        ("send", "TEXT is missing"),
        ("sub a b", "'b' is too much: sub CHANNEL"),
        ("list all", "'all' is too much: list"),
        ('sub "a', "has to end"),
        ('sub "a"b', "a space is expected"),
        ("rand -1", "expected a number of bytes from 0 to 16777216, got '-1'"),
        ("rand 16777217", "expected a number of bytes"),
        ("rand ²", "expected a number of bytes"),
        ("rand 1_0", "expected a number of bytes"),
        ("use x", "expected the number of a connection"),
        *(
            (f"close {code}", "expected a close code that may be sent")
            for code in (999, 1004, 1005, 1006, 1015, 2999, 5000)
        ),
        ("close 4000 " + 62 * "é", "a reason has at most 123 bytes in UTF-8, got 124"),
        ("raw maybe", "expected on or off, got 'maybe'"),
        ("timeout 0", "expected more than 0 and at most 86400 seconds"),
        ("timeout nan", "expected more than 0"),
        ("help zzz", "no such command"),
    ],
)
def test_a_mistake_says_what_was_expected(text, why):
    with pytest.raises(Mistake, match=why):
        parse(text)


@pytest.mark.parametrize("name", ["plain", "two words", 'with "quotes"', '"', "tab\t", "é", ""])
def test_a_name_is_quoted_so_that_it_is_read_again(name):
    assert split_word(f"{quoted(name)} rest") == (name, "rest")
    assert quoted("plain") == "plain"


def test_each_command_does_something():
    shared = Shared(show=lambda line: None)
    assert set(Actions(Connections(shared, "ws://nowhere/"), shared)._table) == set(COMMANDS)


def test_what_takes_the_rest_comes_last():
    for command in COMMANDS.values():
        assert not any(parameter.takes_rest for parameter in command.parameters[:-1])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('call x {"a": }', "not JSON at line 1, column 7: Expecting value, before }"),
        ("pub x @/nowhere/at/all", "cannot read /nowhere/at/all: No such file or directory"),
        ("call x -", "not JSON at line 1, column 1"),
        ("call x 1", "there is no connection; connect makes one, to ws://\\*\\*\\*@nowhere/"),
        ("use 3", "there is no connection 3"),
    ],
)
def test_what_cannot_be_done_now_is_said(text, why):
    shared = Shared(show=lambda line: None)
    with pytest.raises(Mistake, match=why):
        Actions(Connections(shared, "ws://me:s3cret@nowhere/"), shared).do(parse(text))
