"""What tests need to know of the Dockerfile: its instructions, and the files that it may copy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Stage(NamedTuple):
    """A stage of the build: its base image and the instructions after FROM."""

    base: str
    instructions: list[tuple[str, str]]

    def all(self, instruction: str) -> list[str]:
        """Return the values of all instructions of this kind."""
        return [value for name, value in self.instructions if name == instruction]

    def one(self, instruction: str) -> str:
        """Return the value of the only instruction of this kind."""
        (value,) = self.all(instruction)
        return value

    @property
    def environment(self) -> dict[str, str]:
        """The variables that ENV sets."""
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.all("ENV"))))

    @property
    def command(self) -> list[str]:
        """The words of CMD, which has no shell."""
        return words(self.one("CMD"))

    @property
    def health_check(self) -> list[str]:
        """The words of HEALTHCHECK, which has no shell."""
        return words(self.one("HEALTHCHECK").partition(" CMD ")[2])


def words(value: str) -> list[str]:
    """Return the words of an instruction in the exec form.

    Raises:
        ValueError: it has the shell form.
    """
    found = json.loads(value)
    if not (isinstance(found, list) and all(isinstance(word, str) for word in found)):
        raise ValueError(f"expected a list of strings, got {value}")
    return found


def stages(text: str) -> list[Stage]:
    """Return the stages of a Dockerfile; ARGs before the first one have their defaults."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        instruction, _, value = line.strip().partition(" ")
        value = value.strip()
        if instruction == "ARG" and not found:
            name, _, default = value.partition("=")
            arguments[name] = default
        elif instruction == "FROM":
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], value)
            found.append(Stage(base, []))
        elif instruction:
            found[-1].instructions.append((instruction, value))
    return found


def context() -> Iterator[Path]:
    """Yield the files of the repository that .dockerignore leaves, relative to its root."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    tops = [path for path in ROOT.iterdir() if any(rule.removeprefix("!") == path.name for rule in rules)]
    for top in tops:
        for path in [top] if top.is_file() else top.rglob("*"):
            relative = path.relative_to(ROOT)
            if path.is_file() and not _is_ignored(relative, rules):
                yield relative


def _is_ignored(path: Path, rules: list[str]) -> bool:
    """Return whether the last rule that matches the path, or a directory of it, excludes it."""
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        names = [str(each) for each in (path, *path.parents)]
        if pattern.startswith("**/"):
            names = [Path(name).name for name in names]
            pattern = pattern[3:]
        if any(fnmatchcase(name, pattern) for name in names):
            ignored = not rule.startswith("!")
    return ignored
