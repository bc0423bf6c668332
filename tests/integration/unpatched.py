"""Run the tests of a file in a process that gevent has not patched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_VARIABLE = "JUGGLER_TEST_UNPATCHED"

UNPATCHED = bool(os.environ.get(_VARIABLE))
"""Whether this process is one."""


def pass_unpatched(file: str, *options: str, seconds: float = 150) -> None:
    """Assert that the tests of a file pass in a new process without plugins, so without the one that patches."""
    own = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-o", "addopts=--import-mode=importlib"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *own, *options, file],
        cwd=ROOT,
        env={**os.environ, _VARIABLE: "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
