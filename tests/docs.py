"""Run the Python blocks of a page in docs/ as one program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def python_blocks(page: str) -> list[str]:
    """Return the Python code blocks of ``docs/<page>``."""
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def run_blocks(page: str, replace: dict[str, str] | None = None) -> dict[str, Any]:
    """Run all Python blocks of ``docs/<page>``, with some texts replaced, and return their global names."""
    # The name must not be that of a real module.
    names: dict[str, Any] = {"__name__": f"docs of {page}"}
    for number, text in enumerate(python_blocks(page), 1):
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        exec(compile(text, f"{page}, block {number}", "exec", dont_inherit=True), names)
    return names
