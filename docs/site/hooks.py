"""Hooks of mkdocs: the pages that are generated, and links from docs/ to other files of the repository.

- ``api/<module>.md``: the public names of a module, from its docstrings.
- ``project/commands.md``: the help of every command.
- ``project/<path>``: pages and files outside docs/ that pages link to.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"]

# Modules whose documented names are in others, which their page shows as well.
PARTS = {
    "juggler.callee.testing": ["juggler.callee.testing.plugin"],
    "juggler.locust": ["juggler.locust.scenarios"],
    "juggler.handlers": [
        f"juggler.handlers.{name}"
        for name in ("allow", "authorize", "drill", "log", "rate_limit", "recover", "rewrite")
    ],
    "juggler.process": ["juggler.process.garbage", "juggler.process.trim"],
}

INTRODUCTIONS = {
    "juggler.callee": "The top-level package `callee` has the same names: `from callee import Callee` works, too.",
}

# Classes whose pages show only the members that applications use.
MEMBERS = {
    "juggler.server.Connection": ["send", "end_subscription", "close", "wait_closed"],
    "juggler.server.Server": ["publish", "disconnect", "snapshot", "shut_down", "close"],
}

_LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<p>([^<>]*(?:<(?!/?p>)[^<>]*>[^<>]*)*)::</p>")
_LANGUAGES = {".py": "python", ".js": "js", ".html": "html", ".conf": "nginx", ".toml": "toml", ".yaml": "yaml"}

# The place in the repository of each page that is not in docs/.
_sources: dict[str, str] = {}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    names = list(modules(config.nav))
    for module in names:
        content = exports_page(names) if module == "juggler" else api_page(module)
        files.append(File.generated(config, f"api/{module}.md", content=content))
    files.append(File.generated(config, "project/commands.md", content=commands_page()))
    wanted = [*PAGES, *(target for file in files.documentation_pages() for target in outside(file))]
    done: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path in done:
            continue
        done.add(path)
        page = File.generated(config, place(path), content=project_page(path))
        _sources[page.src_uri] = path
        files.append(page)
        wanted += outside(page)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ to the generated pages."""
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda found: _moved(found, page.file.src_uri), part)
        for part in _FENCE.split(markdown)
    )


def on_page_content(html: str, **_: Any) -> str:
    """Remove the marks of code blocks in docstrings, which Markdown does not know."""
    return _MARK.sub(lambda found: "" if found[1] == "" else f"<p>{found[1]}:</p>", html)


def modules(nav: Any) -> Iterator[str]:
    """Yield the modules whose pages are in a nav."""
    if isinstance(nav, list):
        for each in nav:
            yield from modules(each)
    elif isinstance(nav, dict):
        for each in nav.values():
            yield from modules(each)
    elif nav.startswith("api/"):
        yield nav.removeprefix("api/").removesuffix(".md")


def api_page(module: str) -> str:
    """Return the page of a module."""
    classes = {name.rpartition(".")[2]: members for name, members in MEMBERS.items() if name.startswith(f"{module}.")}
    text = f"# {module}\n\n{INTRODUCTIONS.get(module, '')}\n\n::: {module}\n"
    if classes:
        hidden = ["!^_", *(f"!^{name}$" for name in classes)]
        text += f"    options:\n      filters: {json.dumps(hidden)}\n"
    for name, members in classes.items():
        text += f"\n::: {module}.{name}\n    options:\n      members: {json.dumps(members)}\n"
        text += "      show_root_heading: true\n      show_root_toc_entry: true\n      heading_level: 2\n"
    for part in PARTS.get(module, ()):
        text += f"\n## {part}\n\n::: {part}\n    options:\n      heading_level: 3\n"
    return text


def exports_page(names: list[str]) -> str:
    """Return the page of the package, which exports names of other modules."""
    import juggler

    text = "# juggler\n\nWhat a first program needs. Each name is imported when it is first used.\n\n"
    text += "| name | documented in |\n|---|---|\n"
    for name in juggler.__all__:
        value = getattr(juggler, name)
        homes = [
            home
            for home in names
            if home != "juggler"
            and (name in getattr(import_module(home), "__all__", ()) or getattr(value, "__module__", "") == home)
        ]
        for home in homes[:1]:
            text += f"| [`{name}`]({home}.md#{home}.{name}) | [{home}]({home}.md) |\n"
    return text + "\n`juggler.__version__` is the version, as text.\n"


def commands_page() -> str:
    """Return the page with the help of all commands."""
    import click

    from juggler.callee.cli import main as callee
    from juggler.cli.main import main as juggler

    def helps(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
        context = click.Context(command, parent=parent, info_name=name, terminal_width=100, max_content_width=100)
        yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                child = command.get_command(context, each)
                assert child is not None
                yield from helps(child, context, each)

    texts = [*helps(juggler, None, "juggler"), *helps(callee, None, "juggler-callee")]
    return "\n".join(["# Commands\n\nThe help of every command, as `--help` prints it.\n", *texts])


def project_page(path: str) -> str:
    """Return the page of a file or directory of the repository."""
    source = ROOT / path
    if source.suffix == ".md":
        return source.read_text("utf-8")
    if source.is_dir():
        names = sorted(each.name for each in source.iterdir() if each.is_file() and each.stat().st_size)
        return f"# {path}\n\n" + "\n".join(f"- [{name}]({posixpath.basename(path)}/{name})" for name in names)
    return f"# {path}\n\n```{_LANGUAGES.get(source.suffix, 'text')}\n{source.read_text('utf-8')}\n```\n"


def place(path: str) -> str:
    """Return the place in the site of a file of the repository."""
    return f"project/{path}" if path.endswith(".md") else f"project/{path.replace('.', '-')}.md"


def outside(file: File) -> Iterator[str]:
    """Yield the files outside docs/ to which a page links."""
    source = _sources.get(file.src_uri, f"docs/{file.src_uri}")
    for link in _LINK.findall(_FENCE.sub("", file.content_string)):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if not path.startswith("docs/") and (ROOT / path).exists():
            yield path


def _moved(found: re.Match[str], src_uri: str) -> str:
    before, link, after = found.groups()
    here = posixpath.dirname(src_uri)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_sources.get(src_uri, f"docs/{src_uri}")), link))
    if path.startswith("docs/"):
        target = path.removeprefix("docs/")
    elif (ROOT / path).exists():
        target = place(path)
    else:
        return found.group()
    return before + posixpath.relpath(target, here or ".") + after
