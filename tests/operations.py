"""System programs that tests run, such as nginx."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(command: str) -> str:
    """Return the path of a command. If it is not installed, skip the test, or fail it in CI."""
    found = shutil.which(command) or shutil.which(command, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"{command} is not installed")
    return found
