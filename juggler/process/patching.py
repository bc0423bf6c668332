"""Monkey-patch the process with gevent, and look for its plugins only once.

gevent asks for the plugins of each module that it patches, 25 times in all, and Python reads the metadata of all
installed packages each time: with 170 packages, that was a third of the CPU time of a command until it served.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from gevent import monkey


def patch_all() -> None:
    """Monkey-patch all modules. For commands, before other imports; the library leaves that to them."""
    with plugins_read_once():
        monkey.patch_all()


@contextmanager
def plugins_read_once() -> Iterator[None]:
    """Read the entry points of installed packages once during a ``with`` block."""
    read, found = metadata.entry_points, metadata.entry_points()
    metadata.entry_points = found.select
    try:
        yield
    finally:
        metadata.entry_points = read
