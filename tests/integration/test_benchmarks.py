"""The benchmarks run: what they measure is not judged here."""

from __future__ import annotations

import re
import subprocess
import sys


def test_memory_of_connections():
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.bench.connection", "50"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\(50 of them\): -?\d+\.\d KB", done.stdout)) == 3
