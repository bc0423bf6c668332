"""TypeScript types of functions: the TypeScript compiler accepts right uses of them and refuses wrong ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from juggler.callee.registry import load_callee
from juggler.cli.typescript import Function, types_of
from tests.integration.commands import TIMEOUT
from tests.operations import needs

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "typescript"
PAGE = ROOT / "docs" / "clients" / "browser.md"
STATIC = ROOT / "juggler" / "server" / "static"
SHOP = "tests.typescript.shop:rpc"
VERSION = "5.9.3"
OPTIONS = "--noEmit --strict --noPropertyAccessFromIndexSignature --target es2022 --module nodenext --lib es2023,dom"

HOSTILE = [
    {},
    {"args": False, "result": 5},
    {"args": {"type": ["string", 7, None]}, "result": {"type": "array", "prefixItems": [True, False], "items": {}}},
    {"args": {"anyOf": []}, "result": {"$ref": "#/$defs/nowhere"}},
    {"args": {"enum": [{}, "a\nb`${x}`", 1e300, None]}, "result": {"enum": []}},
    {"args": {"$ref": "#/$defs/1 2-3", "$defs": {"1 2-3": {"type": "object", "description": "*/ x /*"}}}},
    {
        "args": {
            "allOf": [{"$ref": "#/$defs/A"}, {"type": "string"}],
            "$defs": {"A": {"type": "array", "minItems": "x"}},
        }
    },
    {"args": {"type": "object", "properties": {"__proto__": {}, "constructor": {}, "\ud800": {}}, "required": "all"}},
    {"args": {"anyOf": [{"type": "object", "properties": {"a b": {}}}, {"type": "array", "prefixItems": [{}]}]}},
    {"args": {"type": "array", "prefixItems": [{"type": "null"}, {"anyOf": [{"type": "null"}, {"const": 1}]}]}},
]
"""Schemas that no callee of juggler announces."""

NAMES = [
    "any",
    "interface",
    "undefined",
    "await",
    "Array",
    "Promise",
    "Client",
    "Record",
    "of",
    "as",
    "get",
    "symbol",
    "_",
    "$",
]


def tsc(arguments: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the TypeScript compiler, which is installed once, into the cache of pytest."""
    compiler = cache / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        install = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", f"typescript@{VERSION}"]
        subprocess.run([needs("npm"), *install], cwd=cache, check=True, capture_output=True, timeout=TIMEOUT)
    command = [needs("node"), str(compiler), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


@pytest.mark.xdist_group("typescript")
def test_the_compiler_accepts_right_uses_and_refuses_wrong_ones(tmp_path, request):
    rpc = load_callee(SHOP)
    functions = [Function(uri, rpc[uri].doc, json.loads(rpc[uri].schema or "{}")) for uri in sorted(rpc)]
    (tmp_path / "functions.d.ts").write_text(types_of(functions))
    hostile = [Function(f"hostile.{number}", "", schema) for number, schema in enumerate(HOSTILE)]
    defs = {name: {"type": "object", "properties": {"x": {"type": "null"}}} for name in NAMES}
    hostile += [Function(name, "", {"args": {"$ref": f"#/$defs/{name}", "$defs": defs}}) for name in NAMES]
    (tmp_path / "hostile.ts").write_text(types_of(hostile))
    for path in (HERE / "uses.ts", STATIC / "juggler.js", STATIC / "juggler.d.ts"):
        shutil.copy(path, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (shown,) = re.findall(r"^```ts\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "page.ts").write_text(shown)
    files = [str(tmp_path / name) for name in ("uses.ts", "page.ts", "hostile.ts", "functions.d.ts", "juggler.d.ts")]
    done = tsc([*OPTIONS.split(), *files], request.config.cache.mkdir("typescript"))
    assert done.returncode == 0, done.stdout
