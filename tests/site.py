"""Build the site of the documentation."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.docs import ROOT

BUILT = "JUGGLER_TEST_SITE"
"""Variable with the directory of a site that has been built."""


class Site(NamedTuple):
    """A built site: its directory, and the CPU seconds that it took."""

    path: Path
    cpu_seconds: float


def built_site(path: Path) -> Site:
    """Build the site in a directory. Fail on every warning."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Site(path, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
