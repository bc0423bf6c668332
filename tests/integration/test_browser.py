"""Runs tests/browser, whose driver does not go with gevent's patching, in a process of its own."""

from __future__ import annotations

import pytest

from tests.integration.unpatched import ROOT, pass_unpatched


@pytest.mark.timeout(310)
@pytest.mark.parametrize(
    "name", ["test_docs.py", "test_module.py", "test_playground.py", "test_playground_features.py"]
)
def test_in_a_browser(name):
    pass_unpatched(str(ROOT / "tests" / "browser" / name), seconds=300)
