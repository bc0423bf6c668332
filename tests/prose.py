"""Find words that juggler does not use in its prose: documentation, docstrings, comments, errors, logs, help.

``python -m tests.prose juggler docs/redis.md`` prints each of them with the place and the word to use.

A test of its own, because no prose linter does the job:

- vale's package on PyPI downloads the program from elsewhere when it first runs, and CI has no such network.
- proselint has fixed checks. Its configuration turns them on and off, and adds no words.
- Neither reads help texts, log lines, or the strings of a Python file without its code.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

_ACTORS = r"(?:it|process|processes|server|worker|callee|command|program|demo|connection|call|session|client|task)"

# A pattern for lower-case text, and what to write in its place.
WORDS = {
    r"(?:is|are|was|were|be|been) told|told": "is notified, receives",
    r"tells?|telling|says|saying|said": "reports, returns, shows",
    r"under way|on (?:its|their|the) way": "in flight",
    r"nobody|no one": "no client, no callee; or rewrite",
    r"somebody|someone|anybody": "name the actor: the client, the caller, an operator",
    r"whoever": "name the actor",
    r"we|us|ours?|ourselves": "name the actor: the server, juggler",
    r"he|she|his|him|hers?": "name the actor: the client, the caller",
    r"given up|gives? up|giving up|gave up": "abandoned, stops retrying",
    r"anew|again from the start": "recreated, re-established, restarted",
    r"what came in": "the message, malformed messages",
    r"who serves|what is served": "catalogue, registered functions",
    r"holds? up|holding up|held up": "blocks",
    r"so many|as many as (?:come|one likes)": "N, unlimited",
    r"ways? out": "write path",
    r"looks? after|looking after|see that|sees that|see to it": "check, ensure",
    rf"{_ACTORS} (?:itself )?(?:has ended|ends|ended|comes? to an end)": "exits (process), closes, completes (call)",
    r"a person who operates": "operator",
    r"rights|(?:the|a|no|this|that) right (?:to|of)": "permissions, ACL rules",
    r"by option|if told so": "optional; enable with --…",
    r"faults?|failures? of ours": "bug, internal error",
    r"at a time": "concurrently",
    r"the look of|by their look|by its look": "shape",
    r"one's|of one's own": "your own; or name the actor",
    r"behavior|catalogs?|cancel(?:ed|ing)|neighbor|analyz(?:e|ed|ing)": "British spelling",
}
_ADVICE = list(WORDS.values())
_word = re.compile(r"(?<![\w`'-])(?:" + "|".join(f"({pattern})" for pattern in WORDS) + r")(?![\w`-]|'[a-z])")

# A pattern for fragments that may stay, and the reason.
ALLOWED = {
    r"one (?:\w+ )?at a time": "idiom: sequentially",
    "segmentation fault": "the name of the error",
    "fault tolerance": "a term of the field",
    "fault injection": "a term of the field",
}


class Finding(NamedTuple):
    place: str
    word: str
    advice: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.word!r}, better: {self.advice} | {self.text}"


def words_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the refused words of a text, each with what to write instead. Code in backticks is left out."""
    lowered = re.sub(r"``[^`]*``|`[^`]*`", "`code`", text).lower()
    for fragment in ALLOWED:
        lowered = re.sub(fragment, "", lowered)
    for found in _word.finditer(lowered):
        yield found.group(), _ADVICE[(found.lastindex or 1) - 1]


def _python(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments and strings with their lines. A string without a space is a name, not prose."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:")):
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line


def _markdown(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page; of code blocks the comments alone."""
    fence = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("```"):
            fence = not fence
        elif not fence:
            yield number, re.sub(r"\]\([^)]*\)|https?://\S+", "", line)
        elif comment := re.search(r"(?:^|\s)(?:#|//)\s(.*)", line):
            yield number, comment[1]


def _script(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments of JavaScript, TypeScript, CSS, shell and configuration files."""
    for number, line in enumerate(source.splitlines(), 1):
        if comment := re.search(r"(?:^|\s)(?://|/?\*\*?|#|<!--)\s(.*)", line):
            yield number, comment[1]


READERS = {".py": _python, ".md": _markdown}
OTHER = {".js", ".ts", ".mjs", ".html", ".css", ".conf", ".cfg", ".service", ""}
LEFT_OUT = {"prose.py", "test_prose.py"}


def files(*places: str) -> list[Path]:
    """Return the files with prose below each place."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    readable = {*READERS, *OTHER}
    return [p for p in found if p.is_file() and p.suffix in readable and "__pycache__" not in p.parts]


def check(path: Path) -> list[Finding]:
    """Return what is refused in a file."""
    name = path.relative_to(ROOT)
    text = path.read_text("utf-8")
    if not _word.search(text.lower()):
        return []
    lines = READERS.get(path.suffix, _script)(text)
    return [
        Finding(f"{name}:{number}", word, advice, line.strip())
        for number, line in sorted(lines)
        for word, advice in words_in(line)
    ]


if __name__ == "__main__":
    findings = [each for path in files(*sys.argv[1:]) if path.name not in LEFT_OUT for each in check(path)]
    print(*findings, sep="\n")
    sys.exit(bool(findings))
