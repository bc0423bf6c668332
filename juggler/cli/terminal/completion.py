"""Complete the word being typed. PURE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from juggler.cli.terminal.grammar import COMMANDS, InputError, Kind, Parameter, quoted, split_word


@dataclass(frozen=True)
class Names:
    """Known names; mappings have a description for each.

    Attributes:
        uris: in the catalogue of the current connection, or called before.
        channels: published to, subscribed to, or received with an event.
        patterns: globs subscribed to.
        subscribed: channels of the current connection.
        subscribed_patterns: globs of the current connection.
        connections: numbers of the connections.
        urls: connected to before.
    """

    uris: Mapping[str, str] = field(default_factory=dict)
    channels: Collection[str] = ()
    patterns: Collection[str] = ()
    subscribed: Collection[str] = ()
    subscribed_patterns: Collection[str] = ()
    connections: Mapping[str, str] = field(default_factory=dict)
    urls: Collection[str] = ()


@dataclass(frozen=True)
class Candidate:
    """A possible completion.

    Attributes:
        text: replacement of the word.
        about: description, shown beside it.
    """

    text: str
    about: str = ""


def word_and_kind(text: str) -> tuple[str, Parameter, bool] | None:
    """Return the last word of a text, its parameter, and whether another word may follow.

    Return None if there is nothing to complete.
    """
    parameters: tuple[Parameter, ...] = (Parameter("COMMAND", Kind.COMMAND),)
    text = text.lstrip()
    is_first = True
    while True:
        if not parameters or parameters[0].takes_rest:
            return None
        is_open = text.startswith('"')
        try:
            word, rest = split_word(text)
        except InputError:
            # An unterminated string.
            return text, parameters[0], len(parameters) > 1
        if not rest and not (text[-1:].isspace() and word):
            return text if is_open else word, parameters[0], is_first or len(parameters) > 1
        if is_first:
            if word not in COMMANDS:
                return None
            parameters = COMMANDS[word].parameters
        else:
            parameters = parameters[1:]
        is_first = False
        text = rest


def complete(text: str, names: Names) -> tuple[str, list[Candidate]]:
    """Return the last word of a text and its completions in alphabetical order."""
    found = word_and_kind(text)
    if found is None:
        return "", []
    word, parameter, may_go_on = found
    known = _SOURCES.get(parameter.kind, _nothing)(names)
    candidates = []
    for name in sorted(known):
        replacement = quoted(name)
        if replacement.startswith(word):
            goes_on = may_go_on and not (parameter.name == "COMMAND" and not _takes_anything(name))
            candidates.append(Candidate(replacement + " " * goes_on, known[name]))
    return word, candidates


def _takes_anything(command: str) -> bool:
    return bool(COMMANDS[command].parameters)


def _nothing(names: Names) -> Mapping[str, str]:
    return {}


_SOURCES: dict[Kind, Callable[[Names], Mapping[str, str]]] = {
    Kind.CHANNEL: lambda names: dict.fromkeys(names.channels, ""),
    Kind.COMMAND: lambda names: {command.name: command.help for command in COMMANDS.values()},
    Kind.CONNECTION: lambda names: names.connections,
    Kind.ON_OFF: lambda names: {"on": "", "off": ""},
    Kind.PATTERN: lambda names: dict.fromkeys(names.patterns, ""),
    Kind.SUBSCRIBED: lambda names: dict.fromkeys(names.subscribed, ""),
    Kind.SUBSCRIBED_PATTERN: lambda names: dict.fromkeys(names.subscribed_patterns, ""),
    Kind.URI: lambda names: names.uris,
    Kind.URL: lambda names: dict.fromkeys(names.urls, ""),
}
