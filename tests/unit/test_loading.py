"""Objects are imported by name, and errors name what is wrong."""

from __future__ import annotations

import logging

import pytest

from juggler.errors import ConfigError
from juggler.process.loading import load_object


def test_an_object_is_found_in_its_module():
    assert load_object("juggler.errors:NackCode.FORBIDDEN", "m:o") == 403


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("module", "'module': expected MODULE:OBJECT, for example m:o"),
        (":o", "':o': expected MODULE:OBJECT, for example m:o"),
        ("broken:o", "cannot import 'broken': AttributeError: module 'os' has no attribute 'absent'"),
        ("juggler.errors:absent", "'juggler.errors:absent': module 'juggler.errors' has no attribute 'absent'"),
    ],
)
def test_what_cannot_be_imported_is_named_with_the_reason(tmp_path, monkeypatch, name, reason):
    (tmp_path / "broken.py").write_text("import os\nos.absent\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as failure:
        load_object(name, "m:o")
    assert str(failure.value).startswith(reason)


def test_a_module_that_configures_logging_does_not_silence_juggler(tmp_path, monkeypatch):
    text = "import logging.config\nlogging.config.dictConfig({'version': 1})\nthing = 1\n"
    (tmp_path / "silencing.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    ours, other = logging.getLogger("juggler.loading"), logging.getLogger("jugglers.other")
    try:
        assert load_object("silencing:thing", "m:o") == 1
        assert not ours.disabled
        assert other.disabled
    finally:
        for logger in logging.root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.disabled = False
