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


def test_the_way_through_redis():
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.bench.redis_link", "0.1"], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    # A rate and three processes' CPU time.
    rows = re.findall(r"^(juggler|redis-py): .*? +[\d,]+(?: +-?\d+\.\d){3}$", done.stdout, re.MULTILINE)
    assert rows.count("juggler") >= 7
    assert rows.count("redis-py") == 6
