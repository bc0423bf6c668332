"""The version is the same everywhere, and the changelog has it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import juggler

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_in_all_files() -> None:
    package = json.loads((ROOT / "juggler" / "server" / "static" / "package.json").read_text())
    assert package["version"] == juggler.__version__


def test_the_changelog_has_an_empty_section_and_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(juggler.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])
