"""Completion by Tab."""

from __future__ import annotations

import pytest

from juggler.cli.terminal.completion import Candidate, Names, complete
from juggler.cli.terminal.grammar import COMMANDS

NAMES = Names(
    uris={"test.echo": "(value)", "test.reverse": "(text)", "two words": ""},
    channels=["news", "log"],
    patterns=["news.*"],
    subscribed=["news"],
    subscribed_patterns=["log.*"],
    connections={"1": "ws://a/", "12": "ws://b/"},
    urls=["ws://a/", "ws://b/"],
)


@pytest.mark.parametrize(
    ("text", "word", "texts"),
    [
        ("ca", "ca", ["call "]),
        ("  li", "li", ["list"]),
        ("call ", "", ["test.echo ", "test.reverse ", '"two words" ']),
        ("call test.", "test.", ["test.echo ", "test.reverse "]),
        ("call test.r", "test.r", ["test.reverse "]),
        ('call "two w', '"two w', ['"two words" ']),
        ("call unknown", "unknown", []),
        ("call test.echo ", "", []),
        ("call test.echo ne", "", []),
        ("pub n", "n", ["news "]),
        ("sub ", "", ["log", "news"]),
        ("sub news ", "", []),
        ("psub ", "", ["news.*"]),
        ("unsb ", "", ["news"]),
        ("punsb ", "", ["log.*"]),
        ("use 1", "1", ["1", "12"]),
        ("connect ws", "ws", ["ws://a/", "ws://b/"]),
        ("raw ", "", ["off", "on"]),
        ("help pu", "pu", ["pub", "punsb"]),
        ("send n", "", []),
        ("nonsense n", "", []),
        ("quit ", "", []),
    ],
)
def test_a_word_is_completed(text, word, texts):
    found, candidates = complete(text, NAMES)
    assert (found, [candidate.text for candidate in candidates]) == (word, texts)


def test_all_commands_are_offered_first():
    word, candidates = complete("", NAMES)
    assert (word, [c.text.rstrip() for c in candidates]) == ("", sorted(COMMANDS))


def test_completions_have_descriptions():
    assert complete("call test.e", NAMES)[1] == [Candidate("test.echo ", "(value)")]
    assert complete("qu", NAMES)[1] == [Candidate("quit", COMMANDS["quit"].help)]
