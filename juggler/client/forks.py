"""What a client does in the child of a fork: its connection is the parent's, and its threads are not in the child.

The copies in the child free their sockets without a word to the server, and raise `ConnectionClosed` when used.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from juggler.errors import CloseCode, ConnectionClosed


class Forkable(Protocol):
    """An object whose copy in a child process must not be used."""

    def on_fork(self) -> None:
        """Free what this copy holds. Runs in the child. Locks may be held by threads that exist in the parent alone."""


_objects: WeakSet[Forkable] = WeakSet()


def register(forkable: Forkable) -> None:
    """Call ``forkable.on_fork`` in each child of this process, for as long as the object exists."""
    _objects.add(forkable)


def forked() -> ConnectionClosed:
    """Return the error of a copy."""
    return ConnectionClosed(CloseCode.ABNORMAL, "the client was created before a fork; create one in each process")


def check_process(pid: int) -> None:
    """Raise `ConnectionClosed` unless this is the process ``pid``."""
    if os.getpid() != pid:
        raise forked()


def _on_fork() -> None:
    for each in list(_objects):
        each.on_fork()


os.register_at_fork(after_in_child=_on_fork)
