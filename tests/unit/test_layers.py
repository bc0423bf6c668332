"""Who may import whom. The tables are the rules; whoever breaks one on purpose changes its table.

Imports are read from the source, those inside functions too. Those under ``if TYPE_CHECKING`` are for readers and mypy
only, and do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# A part of juggler imports from the rows above its own, and from itself.
LAYERS = [
    ["errors"],
    ["message", "rawjson", "loading", "backoff", "guard", "garbage"],
    ["codec"],
    ["metrics", "embedded", "logs", "pages"],
    ["board"],
    ["handshake", "broker", "session"],
    ["connect"],
    ["websocket", "client", "served"],
    ["handler"],
    ["handlers", "auth"],
    ["connection"],
    ["server"],
    ["wsgi"],
    ["config"],
    ["worker"],
    ["cli"],
]

# What stands beside the layers needs only these parts of juggler.
NEEDS_ONLY = {
    "juggler.embedded": {"errors"},
    "juggler.garbage": set(),
    "juggler.guard": set(),
    "juggler.session": {"errors", "message", "codec"},
    "juggler.client": {"errors", "message", "codec", "session", "backoff"},
    "juggler.loading": {"errors"},
    "callee": {"errors", "message", "codec", "broker", "loading", "metrics", "logs"},
}
# It tests callees with all there is.
ANYTHING = "callee.testing"
USES_PYTEST = "callee.testing.plugin"

# No I/O, no clock, no threads: a file whose docstring says PURE imports none of NOT_PURE. These have to say so.
PURE = {"juggler.message", "juggler.codec", "juggler.rawjson", "juggler.handshake", "juggler.session"}
PURE_TOO = {
    "juggler.errors",
    "juggler.broker",
    "juggler.broker.glob",
    "juggler.broker.names",
    "juggler.websocket.frames",
    "callee.binding",
    "callee.pools.wire",
}
NOT_PURE = {
    *("socket", "socketserver", "ssl", "select", "selectors", "http", "urllib", "subprocess", "signal", "logging"),
    *("threading", "concurrent", "multiprocessing", "queue", "asyncio", "time"),
    *("gevent", "geventwebsocket", "gunicorn", "redis", "prometheus_client"),
}

# Libraries that one file alone deals with.
ONE_FILE = {
    "ujson": "juggler.codec",
    "geventwebsocket": "juggler.websocket.upgrade",
    "prometheus_client": "juggler.metrics.exposition",
    "structlog": "juggler.logs",
    "prompt_toolkit": "juggler.cli.terminal.screen",
}

# The worker belongs to its user, who may not have it: only the demo starts one, when asked to.
IMPORTS_CALLEE = {"juggler.cli.demo"}

# Commands patch, and the gunicorn worker does; the library leaves that to them.
MAY_PATCH = ("juggler.cli.", "callee.serve", "juggler.worker")


class Module(NamedTuple):
    name: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The name in `LAYERS`; empty for the package itself."""
        return self.name.partition(".")[2].partition(".")[0]


class Import(NamedTuple):
    target: str
    at_import: bool


def modules(*packages: str) -> list[Module]:
    found = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(name, ast.parse(path.read_text("utf-8"))))
    return found


LIBRARY = modules("juggler", "callee")
NAMES = {module.name for module in LIBRARY}
JUGGLER = [module for module in LIBRARY if module.name.startswith("juggler")]


def imports(node: ast.AST, at_import: bool = True) -> Iterator[Import]:
    """Yield what a module imports, absolute names only; ``from a import b`` is a.b where that is a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"line {child.lineno}: imports are absolute"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(full if full in NAMES else child.module or "", at_import)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imports(other, at_import)
        else:
            in_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(child, at_import and not in_function)


def targets(module: Module) -> set[str]:
    return {found.target for found in imports(module.tree)}


def tops(module: Module) -> set[str]:
    return {target.partition(".")[0] for target in targets(module)}


def juggler_parts(module: Module) -> set[str]:
    parts = {target.split(".")[1] for target in targets(module) if target.startswith("juggler.")}
    return parts - {module.part if module in JUGGLER else ""}


def by_name(module: Module) -> str:
    return module.name


def row_of(part: str) -> int:
    rows = [number for number, row in enumerate(LAYERS) if part in row]
    assert rows, f"juggler/{part} has no layer yet: give it a place in LAYERS"
    return rows[0]


@pytest.mark.parametrize("module", [m for m in JUGGLER if m.part], ids=by_name)
def test_a_layer_knows_only_those_below(module: Module) -> None:
    above = {part for part in juggler_parts(module) if row_of(part) >= row_of(module.part)}

    assert not above, f"{module.name} may not import {above}"


def test_the_package_itself_loads_nothing() -> None:
    (package,) = (module for module in JUGGLER if not module.part)
    loaded = {found.target for found in imports(package.tree) if found.at_import}

    assert not {name for name in loaded if name != "__future__"}


@pytest.mark.parametrize(("name", "needed"), NEEDS_ONLY.items(), ids=NEEDS_ONLY)
def test_what_stands_aside_needs_little(name: str, needed: set[str]) -> None:
    for module in LIBRARY:
        is_free = module.name.startswith(ANYTHING)
        if not is_free and (module.name == name or module.name.startswith(f"{name}.")):
            assert juggler_parts(module) <= needed, module.name


@pytest.mark.parametrize("module", LIBRARY, ids=by_name)
def test_pure_files_touch_nothing_outside(module: Module) -> None:
    says_so = "PURE" in (ast.get_docstring(module.tree) or "")

    assert says_so or module.name not in PURE
    if says_so or module.name in PURE_TOO:
        assert not tops(module) & NOT_PURE


@pytest.mark.parametrize(("library", "only"), ONE_FILE.items(), ids=ONE_FILE)
def test_one_file_deals_with_a_library(library: str, only: str) -> None:
    assert {module.name for module in LIBRARY if library in tops(module)} == {only}


def test_the_server_does_not_know_the_worker() -> None:
    knowing = {module.name: module for module in JUGGLER if "callee" in tops(module)}
    at_once = [name for name, module in knowing.items() if Import("callee", True) in imports_of_tops(module)]

    assert set(knowing) <= IMPORTS_CALLEE
    assert not at_once


def imports_of_tops(module: Module) -> set[Import]:
    return {Import(found.target.partition(".")[0], found.at_import) for found in imports(module.tree)}


@pytest.mark.parametrize("module", LIBRARY, ids=by_name)
def test_nothing_imports_its_own_tools(module: Module) -> None:
    allowed = {"pytest"} if module.name == USES_PYTEST else set()
    assert not tops(module) & {"tests", "loadtest", "pytest", "hypothesis"} - allowed


@pytest.mark.parametrize("module", LIBRARY, ids=by_name)
def test_the_library_does_not_patch(module: Module) -> None:
    calls = [ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    patches = [name for name in calls if name.rpartition(".")[2].startswith("patch_")]

    assert not patches or module.name.startswith(MAY_PATCH), patches
