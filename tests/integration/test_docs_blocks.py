"""Every code block of the documentation is run or checked: one that no test knows fails here.

What runs is in `RUN`. Of other blocks only the form is checked. Shell commands must be well-formed, and options,
targets and modules of juggler, gunicorn, locust, make and ``python -m`` must exist. JSON, TOML and YAML must be
readable, and TOML must be valid settings. JavaScript and Python must have no error of syntax.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from itertools import groupby

import click
import pytest

from juggler.callee.cli import main as juggler_callee
from juggler.cli.main import main as juggler
from tests.docs import PAGES, ROOT, blocks, python_blocks_of
from tests.operations import needs

RUN = {
    ("README.md", "python"): "tests/integration/test_readme.py",
    ("README.md", "sh"): "tests/integration/test_readme.py",
    ("README.md", "js"): "tests/browser/test_docs.py",
    ("README.md", ""): "tests/integration/test_readme.py",
    ("docs/backend.md", "python"): "tests/integration/test_docs_backend.py",
    ("docs/backend.md", ""): "tests/integration/test_docs_backend.py",
    ("docs/callee.md", "python"): "tests/integration/test_docs_callee.py",
    ("docs/callee.md", "json"): "tests/integration/test_docs_callee.py",
    ("docs/callee.md", "sh"): "tests/integration/test_docs_callee.py",
    ("docs/clients/browser.md", "js"): "tests/browser/test_docs.py",
    ("docs/clients/browser.md", "ts"): "tests/integration/test_typescript.py",
    ("docs/clients/python.md", "python"): "tests/integration/test_docs_clients.py",
    ("docs/clients/terminal.md", "console"): "tests/integration/test_docs_terminal.py",
    ("docs/coming-from-celery.md", "python"): "tests/integration/test_docs_from_celery.py",
    ("docs/coming-from-centrifugo.md", "python"): "tests/integration/test_docs_from_centrifugo.py",
    ("docs/coming-from-flask-socketio.md", "python"): "tests/integration/test_docs_from_flask_socketio.py",
    ("docs/handlers.md", "python"): "tests/integration/test_docs_handlers.py",
    ("docs/http-api.md", "console"): "tests/integration/test_http_api.py",
    ("docs/http-api.md", "python"): "tests/integration/test_docs_blocks.py",
    ("docs/load-testing.md", "python"): "tests/integration/test_locust.py",
    ("docs/redis.md", ""): "tests/integration/test_redis_topologies.py",
    ("docs/security.md", "python"): "tests/integration/test_docs_security.py",
    ("docs/semantics.md", "python"): "tests/integration/test_docs_semantics.py",
    ("docs/server.md", "python"): "tests/integration/test_docs_server.py",
    ("docs/sizing.md", "python"): "tests/integration/test_docs_sizing.py",
    ("docs/tracing.md", "python"): "tests/integration/test_docs_blocks.py",
    ("docs/tutorial.md", "python"): "tests/integration/test_docs_tutorial.py",
    ("docs/tutorial.md", "sh"): "tests/integration/test_docs_tutorial.py",
    ("docs/tutorial.md", "js"): "tests/browser/test_docs.py",
    ("docs/tutorial.md", ""): "tests/integration/test_docs_tutorial.py",
}
"""The test that runs the blocks of a page in a language, or compares the output in a block without a language."""

NOT_RUN = {
    ("docs/benchmarks.md", ""): "output that differs from machine to machine",
    ("docs/install.md", "console"): "the error of a command that lacks a package; the command is checked",
    ("docs/load-testing.md", ""): "output that differs from machine to machine",
    ("docs/operations/README.md", ""): "settings of redis.conf",
    ("docs/operations/README.md", "console"): "output of many processes; the commands are checked",
    ("docs/protocol.md", ""): "the lines of an HTTP request, which contract tests send",
    ("docs/server.md", ""): "two log lines",
    ("docs/tracing.md", "console"): "a log line that is cut; the command is checked",
}
"""Blocks of which at most the commands are checked, and the reason."""

# Programs that are not juggler's, whose options are not checked.
OTHERS = {".", "api", "curl", "docker", "eval", "export", "generate", "jq", "kubectl", "source", "systemctl"}

CONSOLE_PROMPT = re.compile(r"^\$ (.*)$", re.MULTILINE)
ALL = [block for page in PAGES for block in blocks(page)]


def of(*languages):
    found = [block for block in ALL if block.language in languages]
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_is_known():
    checked = {"dockerfile", "sh", "json", "toml", "yaml"}
    unknown = [
        str(block)
        for block in ALL
        if (block.page, block.language) not in RUN.keys() | NOT_RUN.keys() and block.language not in checked
    ]
    assert unknown == [], "run these blocks in a test and name it in RUN, or give a reason in NOT_RUN"


def test_the_tables_are_up_to_date():
    found = {(block.page, block.language) for block in ALL}
    assert (RUN.keys() | NOT_RUN.keys()) - found == set()
    assert RUN.keys() & NOT_RUN.keys() == set()
    for (page, language), test in RUN.items():
        # A test of a page names it, and takes the blocks out of it.
        assert page.removeprefix("docs/").rpartition("/")[2] in (ROOT / test).read_text("utf-8"), (page, language)


@of("python")
def test_python(block):
    compile(block.text, str(block), "exec", dont_inherit=True)


@pytest.mark.parametrize("page", ["docs/http-api.md", "docs/tracing.md"])
def test_short_programs_run(page):
    program = "\n".join(python_blocks_of(page))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@of("js")
def test_javascript(block):
    command = [needs("node"), "--input-type=module", "--check"]
    done = subprocess.run(command, input=block.text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@of("json", "yaml")
def test_json_and_yaml(block):
    import yaml

    read = json.loads if block.language == "json" else lambda text: list(yaml.safe_load_all(text))
    assert isinstance(read(block.text), (dict, list))


@of("toml")
def test_toml(block, tmp_path):
    path = tmp_path / "juggler.toml"
    path.write_text(block.text)
    command = [sys.executable, "-m", "juggler", "config", "check", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@of("sh")
def test_shell(block):
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r"\\\n", " ", block.text)
    for line in text.splitlines():
        if not re.match(r"\w+\(\) \{", line):  # the definition of a function
            check_line(line)


@of("dockerfile")
def test_dockerfile(block):
    """No container engine runs here: the instructions exist, and the command is one of juggler."""
    for line in filter(None, re.sub(r"\\\n", " ", block.text).splitlines()):
        instruction, _, rest = line.partition(" ")
        assert instruction in {"FROM", "COPY", "RUN", "CMD", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "EXPOSE"}, line
        if instruction in ("CMD", "ENTRYPOINT"):
            check_command(json.loads(rest))


@of("console")
def test_console(block):
    for line in CONSOLE_PROMPT.findall(block.text):
        check_line(line)


def check_line(line):
    """Check each command of a line."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    words.commenters = "#"
    words.whitespace_split = True
    for is_end, command in groupby(words, lambda word: set(word) <= set("|&;")):
        if not is_end:
            check_command(list(command))


def check_command(words):
    """Check that a command exists, with its options. Raise an error otherwise."""
    asks_for_completion = words[0].partition("=")[0].endswith("_COMPLETE")
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words or (asks_for_completion and words in (["juggler"], ["juggler-callee"])):
        return
    program, *args = words
    if program == "juggler":
        check_click(juggler, args)
    elif program == "juggler-callee":
        check_click(juggler_callee, args)
    elif program in CHECKS:
        CHECKS[program](args)
    else:
        assert program in OTHERS or (ROOT / program).is_file(), program


def check_click(command, args, parent=None):
    context = click.Context(command, parent=parent, info_name=command.name)
    options, rest, _ = command.make_parser(context).parse_args(list(args))
    if isinstance(command, click.Group):
        assert rest or any(options.values()), f"{context.command_path}: no command"
        if rest:
            child = command.get_command(context, rest[0])
            assert child is not None, rest[0]
            check_click(child, rest[1:], context)
    else:
        assert rest == [], args


def check_gunicorn(args):
    from gunicorn.config import Config

    _, unknown = Config().parser().parse_known_args(args)
    assert unknown == [], unknown


def check_make(args):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert [each for each in args if "=" not in each and each not in targets] == []


def check_python(args):
    if args[0] == "-m":
        assert find_spec(args[1]) is not None, args[1]
    else:
        assert args[0].endswith(".py"), args


def check_pip(args):
    extras = ConfigParser()
    extras.read(ROOT / "setup.cfg")
    for name in (name for each in args for text in re.findall(r"juggler\[(.*)\]", each) for name in text.split(",")):
        assert name in extras["options.extras_require"], name


def check_locust(args):
    from locust.argument_parser import get_parser

    _, unknown = get_parser(default_config_files=[]).parse_known_args(args)
    assert [each for each in unknown if each.startswith("-")] == []
    files = args[args.index("-f") + 1] if "-f" in args else ""  # by default, the reader's own locustfile.py
    for path in files.split(","):
        assert (ROOT / path).is_file() or "/" not in path, path


CHECKS = {
    "gunicorn": check_gunicorn,
    "locust": check_locust,
    "make": check_make,
    "opentelemetry-instrument": check_command,
    "pip": check_pip,
    "python": check_python,
}


@pytest.mark.parametrize(
    "line",
    [
        "juggler server --no-such-option",
        "juggler nothing",
        "juggler call test.echo 1 2",
        "juggler call test.echo 1 | juggler pub --nothing",
        "juggler-callee shop:rpc --nothing",
        "A=b unknown-program",
        "make nothing",
        "python -m loadtest.nothing",
        "gunicorn --nothing app:application",
        "pip install 'juggler[nothing]'",
        "locust -f loadtest/nothing.py",
        "opentelemetry-instrument juggler nothing",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises((AssertionError, click.UsageError, ModuleNotFoundError)):
        check_line(line)
