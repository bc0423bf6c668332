"""Every record that juggler logs is a `Line`: a constant event with its area in front, and details as key=value."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}

_is_event = re.compile(r"[a-z][a-z -]*: [^%{}]+[^%{}.:]").fullmatch

# Calls that log something else, and the reason.
EXCEPTIONS: dict[str, str] = {}


def log_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls of a logger's methods: of names that end in log, logger or logging."""
    is_logger = re.compile(r"(?:^|[._])log(?:ger|ging)?$|getLogger\(.*\)$").search
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            yield from [node] if is_logger(ast.unparse(node.func.value)) else []


def faults(tree: ast.Module) -> list[str]:
    """Return what is wrong with the log calls of a module."""
    found = []
    for call in log_calls(tree):
        arguments = call.args[call.func.attr == "log" :]  # type: ignore[attr-defined]
        line = arguments[0] if len(arguments) == 1 else None
        if not (isinstance(line, ast.Call) and ast.unparse(line.func) == "Line"):
            found.append(f"line {call.lineno}: log a Line")
        elif not (len(line.args) == 1 and isinstance(line.args[0], ast.Constant) and _is_event(line.args[0].value)):
            found.append(f"line {call.lineno}: the event is a constant of the form 'area: words'")
    return found


def test_lines() -> None:
    found = {}
    for path in sorted((ROOT / "juggler").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name not in EXCEPTIONS:
            found[name] = faults(ast.parse(path.read_text("utf-8")))

    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("log.info(Line('redis: connection lost', link=name))", 0),
        ("log.log(level, Line('redis: connection lost'))", 0),
        ("math.log(8)", 0),
        ("self._log.info('lost %s', name)", 1),
        ("logging.getLogger('x').info('lost')", 1),
        ("log.info(f'redis: {name} lost')", 1),
        ("log.info(Line(event))", 1),
        ("log.info(Line('Lost'))", 1),
        ("log.info(Line('redis: connection lost: %s', error))", 1),
    ],
)
def test_what_is_no_line_is_found(code: str, count: int) -> None:
    assert len(faults(ast.parse(code))) == count
