"""Objects whose copies in the child of a fork must not be used: they hold connections and locks of the parent."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object whose copy in a child process must not be used."""

    def on_fork(self) -> None:
        """Free what this copy holds. Runs in the child. Locks may be held by threads that exist in the parent alone."""


_objects: WeakSet[Forkable] = WeakSet()


def register(forkable: Forkable) -> None:
    """Call ``forkable.on_fork`` in each child of this process, for as long as the object exists."""
    _objects.add(forkable)


def _on_fork() -> None:
    for each in list(_objects):
        each.on_fork()


os.register_at_fork(after_in_child=_on_fork)
