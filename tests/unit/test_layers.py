"""Hold the structure of docs/architecture.md: who may import whom, and how many rooms the house has.

Imports are read from the source of every module: those inside functions and under ``TYPE_CHECKING`` count as well.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# A room imports from the rows above its own, and from itself.
LAYERS = [
    ["errors"],
    ["protocol"],
    ["process"],
    ["server.websocket", "broker", "client"],
    ["server", "backend", "locust"],
    ["handlers", "auth"],
    ["wsgi"],
    ["worker"],
    ["callee"],
    ["cli"],
    ["__main__"],
]

# What a room needs at most, beside itself.
NEEDS_ONLY = {
    "juggler.process": {"errors", "protocol"},
    "juggler.protocol": {"errors"},
    "juggler.server.websocket": {"errors", "protocol", "process"},
    "juggler.broker": {"errors", "protocol", "process"},
    "juggler.client": {"errors", "protocol", "process"},
    "juggler.backend": {"errors", "protocol", "broker", "process"},
    "juggler.callee": {"errors", "protocol", "broker", "process"},
    "juggler.locust": {"errors", "protocol", "process", "client"},
    "callee": {"callee"},
}
# The test kit starts servers and clients, too.
ANYTHING = "juggler.callee.testing"
USES_PYTEST = "juggler.callee.testing.plugin"

# No I/O, no clock, no randomness: time and random values are arguments.
PURE = ("juggler.errors", "juggler.protocol")
NOT_PURE = {
    *("socket", "socketserver", "ssl", "select", "selectors", "http", "urllib", "subprocess", "signal", "logging"),
    *("threading", "concurrent", "multiprocessing", "queue", "asyncio", "time", "os", "random", "secrets", "uuid"),
    *("gevent", "geventwebsocket", "gunicorn", "redis", "prometheus_client"),
}

# Libraries that one file alone deals with.
ONE_FILE = {
    "ujson": "juggler.protocol.codec",
    "geventwebsocket": "juggler.server.websocket.upgrade",
    "prometheus_client": "juggler.process.metrics.exposition",
    "prompt_toolkit": "juggler.cli.terminal.screen",
}

# Commands and the gunicorn worker monkey-patch; the library leaves that to them.
MAY_PATCH = ("juggler.cli.", "juggler.callee.worker_process", "juggler.process.patching", "juggler.worker")

# Lazy doors: they name the modules of their public objects, which do not import them back.
DOORS = ["juggler", "juggler.backend", "juggler.broker.redis", "juggler.locust", "juggler.server"]

# Users install locust for load tests alone; no other room may need it.
NEEDS_LOCUST = {f"juggler.locust.{name}" for name in ("listeners", "scenarios", "shapes", "user")}

MOST_ENTRIES = 14
"""Entries in juggler/, beside those that Python asks for. Users type most of them, as in ``juggler.backend`` and
``juggler.locust``, which locustfiles import from the installed package."""
PYTHONS_OWN = {"__init__.py", "__main__.py", "py.typed"}

SMALL = 60
"""A module with one importer and fewer lines belongs into it."""


class Module(NamedTuple):
    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The longest name in `LAYERS` that it belongs to; empty for the package itself."""
        _, _, inner = self.name.partition(".")
        return (
            next((f"server.{each}" for each in ("websocket",) if inner.startswith(f"server.{each}")), "")
            or (inner.partition(".")[0])
        )


def modules(*packages: str) -> list[Module]:
    found = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(name, path, ast.parse(path.read_text("utf-8"))))
    return found


LIBRARY = modules("juggler", "callee")
NAMES = {module.name: module for module in LIBRARY}
JUGGLER = [module for module in LIBRARY if module.name.startswith("juggler")]


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the absolute names that a module imports, and the lines; ``from a import b`` is a.b if that is a module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module.name}, line {node.lineno}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in NAMES else node.module or ""), node.lineno


def at_import(module: Module) -> set[str]:
    """Return what is imported when the module itself is: not inside functions, nor for type checkers only."""
    found: set[str] = set()
    nodes: list[ast.AST] = [module.tree]
    while nodes:
        for child in ast.iter_child_nodes(nodes.pop()):
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.add(child.module or "")
            elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                nodes.append(child)
    return found


@cache
def targets(module: Module) -> set[str]:
    return {target for target, _ in imports(module)}


@cache
def tops(module: Module) -> set[str]:
    return {target.partition(".")[0] for target in targets(module)}


def rooms(module: Module) -> set[str]:
    """Return the rooms of juggler that a module imports from, without its own."""
    found = {NAMES[target].room for target in targets(module) if target in NAMES and target.startswith("juggler")}
    return found - {module.room, ""}


def row_of(room: str) -> int:
    rows = [number for number, row in enumerate(LAYERS) if room in row]
    assert rows, f"juggler/{room} has no layer yet: give it a place in LAYERS"
    return rows[0]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected parts of a graph that have more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_import_circle() -> None:
    graph = {module.name: targets(module) & NAMES.keys() - {module.name} for module in LIBRARY}
    # A door names what is behind it for type checkers, and loads it on demand: it has no arrow of its own.
    for door in DOORS:
        graph[door] = set()

    assert not circles(graph)


def test_nothing_behind_a_door_imports_the_door() -> None:
    for door in DOORS:
        # Importing `juggler` itself, for its version, is harmless: it loads nothing.
        behind = [m.name for m in LIBRARY if m.name.startswith(f"{door}.") and door in targets(m) and door != "juggler"]
        assert not behind, f"{behind} import from {door}"


def test_the_test_finds_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_a_room_knows_only_those_above_it_in_the_table() -> None:
    checked = [m for m in JUGGLER if m.room and m.name not in DOORS and not m.name.startswith(ANYTHING)]

    assert not {m.name: w for m in checked if (w := {r for r in rooms(m) if row_of(r) >= row_of(m.room)})}


@pytest.mark.parametrize("name", DOORS)
def test_doors_load_nothing(name: str) -> None:
    assert not {target for target in at_import(NAMES[name]) if target.startswith(("juggler", "callee"))}


@pytest.mark.parametrize(("name", "needed"), NEEDS_ONLY.items(), ids=NEEDS_ONLY)
def test_a_room_needs_little(name: str, needed: set[str]) -> None:
    for module in LIBRARY:
        if (module.name == name or module.name.startswith(f"{name}.")) and not module.name.startswith(ANYTHING):
            assert rooms(module) <= needed, module.name


def test_pure_files_touch_nothing_outside() -> None:
    pure = [m for m in LIBRARY if "PURE" in (ast.get_docstring(m.tree) or "") or m.name.startswith(PURE)]

    assert len(pure) > 10
    assert not {m.name: outside for m in pure if (outside := tops(m) & NOT_PURE)}


@pytest.mark.parametrize(("library", "only"), ONE_FILE.items(), ids=ONE_FILE)
def test_one_file_deals_with_a_library(library: str, only: str) -> None:
    assert {module.name for module in LIBRARY if library in tops(module)} == {only}


def test_only_load_tests_import_locust() -> None:
    assert {module.name for module in LIBRARY if "locust" in tops(module)} == NEEDS_LOCUST


def test_nothing_imports_its_own_tools() -> None:
    tools = {"tests", "loadtest", "pytest", "hypothesis"}

    assert {m.name: used for m in LIBRARY if (used := tops(m) & tools)} == {USES_PYTEST: {"pytest"}}


def patches(module: Module) -> list[str]:
    """Return the calls that monkey-patch."""
    calls = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    names = [each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in calls]
    return [name for name in names if name.startswith("patch_")]


def test_the_library_does_not_patch() -> None:
    patching = {module.name for module in LIBRARY if patches(module)}

    assert patching
    assert not {name for name in patching if not name.startswith(MAY_PATCH)}


def test_the_package_has_few_entries() -> None:
    entries = {path.name for path in (ROOT / "juggler").iterdir()} - {*PYTHONS_OWN, "__pycache__"}

    assert len(entries) <= MOST_ENTRIES, sorted(entries)


# The implementations of an interface may have the same name, and so may the kinds of a command.
# Users type both paths with worker.py: `juggler.worker.GeventWorker` and `juggler.callee.worker.Worker`.
MAY_REPEAT = {"__init__.py", "__main__.py", "worker.py"}


def test_a_file_name_appears_once() -> None:
    names = Counter(module.path.name for module in JUGGLER)

    assert not {name for name, count in names.items() if count > 1} - MAY_REPEAT


def test_no_module_is_too_small_for_its_one_importer() -> None:
    importers: dict[str, set[str]] = {name: set() for name in NAMES}
    for module in LIBRARY:
        for target in targets(module) & NAMES.keys() - {module.name}:
            importers[target].add(module.name)
    small = {
        name: next(iter(importers[name]))
        for name, module in NAMES.items()
        if len(importers[name]) == 1 and len(module.path.read_text("utf-8").splitlines()) < SMALL
    }

    assert not {name: by for name, by in small.items() if name not in ALONE}


# Small modules with one importer that stay: each is one of several of its kind, a command or package of its own, or a
# policy that its importer should not contain.
ALONE: set[str] = {
    "juggler.broker.redis.callee_watch",
    "juggler.broker.redis.many_uris",
    "juggler.callee.demo",
    "juggler.callee.pools.threads",
    "juggler.handlers.drill",
    "juggler.locust.curves",
    "juggler.locust.shapes",
    "juggler.protocol.subprotocols",
    "juggler.server.caller_identity",
    "juggler.server.draining",
    "juggler.server.figures",
}
