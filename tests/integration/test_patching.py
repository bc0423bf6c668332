"""Monkey-patching calls gevent's plugins, and reads the metadata of installed packages once."""

from __future__ import annotations

import json

from tests.integration.commands import run_python

PROGRAM = """
import json
from importlib import metadata

reads, real, entry_points = [], metadata.distributions, metadata.entry_points
metadata.distributions = lambda **options: reads.append(options) or real(**options)

from juggler.process.patching import patch_all
patch_all()

import plugin, socket
from gevent import monkey
is_restored = metadata.entry_points is entry_points
print(json.dumps([len(reads), plugin.called, monkey.is_module_patched("socket"), is_restored]))
"""

PLUGIN = """
called = []

def call(event):
    called.append(getattr(event, "module_name", "all"))
"""

ENTRY_POINTS = """
[gevent.plugins.monkey.will_patch_all]
plugin = plugin:call

[gevent.plugins.monkey.did_patch_module]
plugin = plugin:call
"""


def test_plugins_are_called_and_packages_are_read_once(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    information = tmp_path / "plugin-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)

    done = run_python("-W", "error", "-c", PROGRAM, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    reads, called, is_patched, is_restored = json.loads(done.stdout)
    assert (reads, is_patched, is_restored) == (1, True, True)
    assert called[0] == "all"
    assert {"socket", "ssl", "threading"} <= set(called)
    assert len(called) == len(set(called))
