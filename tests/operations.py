"""Programs of the system that tests run beside the server."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(command: str) -> str:
    """Return where a command is. Without it a test is skipped by hand, and fails in CI."""
    found = shutil.which(command) or shutil.which(command, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell(f"{command} is not installed")
    return found
