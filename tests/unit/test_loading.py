"""Objects are imported by name, and errors name what is wrong."""

from __future__ import annotations

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
