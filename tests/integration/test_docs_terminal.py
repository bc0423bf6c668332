"""docs/clients/terminal.md: its session is typed into a terminal and looks as it stands there; its tables are whole."""

from __future__ import annotations

import re

import click

from juggler.cli.main import EXIT_CODES, main
from juggler.cli.terminal.grammar import COMMANDS
from tests.docs import DOCS
from tests.integration.commands import callee_process, server_process
from tests.integration.tmux import terminal

PAGE = (DOCS / "clients" / "terminal.md").read_text()
SESSION = re.search(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL).group(1).splitlines()

UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TOOK = re.compile(r"\(\d+\.\d+ m?s\)$")
PROMPT = re.compile(r"(?:\[\d+\] [\d.:]+)?> ")


def alike(line: str) -> str:
    """A line without what is another one each time."""
    return TOOK.sub("(0.0 ms)", UUID.sub("UUID", line))


def test_the_session(redis_url):
    with (
        server_process(redis_url, "--list-uri", "juggler.uris") as url,
        callee_process(redis_url),
        terminal(url) as shown,
    ):
        address = url.removeprefix("ws://").removesuffix("/ws")
        session = [line.replace("127.0.0.1:9000", address) for line in SESSION]
        for number, line in enumerate(session):
            prompt = PROMPT.match(line)
            if prompt:
                shown.wait_for_last(prompt.group().rstrip())
                shown.enter(line[prompt.end() :])
            # What follows up to the next prompt has to be there before more is typed.
            following = session[number + 1 :]
            for answer in following[: next((n for n, each in enumerate(following) if PROMPT.match(each)), None)]:
                shown.wait_for(TOOK.sub("", UUID.split(answer)[0]))
        shown.wait_for_last("ended with 0")
        assert sorted(map(alike, shown.lines()[:-1])) == sorted(map(alike, session))


def test_all_commands_are_in_the_table():
    usages = re.findall(r"`([^`]+)`", PAGE.split("## Commands")[1].split("\n\n- ")[0].replace("\\|", "|"))
    assert {command.usage for command in COMMANDS.values()} <= set(usages)


def test_all_exit_codes_are_in_the_table():
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE)}
    assert {0, 2, *EXIT_CODES.values()} == codes


def test_the_options_are_those_of_the_commands():
    options = {"call": set(), "pub": set(), "sub": set(), "client": set()}
    for name in options:
        command = main.get_command(click.Context(main), name)
        options[name] = {option for parameter in command.params for option in parameter.opts}
        assert {"--header", "--token", "--timeout"} <= options[name], name
    assert {"--pattern", "--count"} <= options["sub"]
