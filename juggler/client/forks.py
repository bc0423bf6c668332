"""What a client does in the child of a fork: its connection is the parent's, and its threads are not in the child.

The copies in the child free their sockets without a word to the server, and raise `ConnectionClosed` when used.
"""

from __future__ import annotations

import os

from juggler.errors import CloseCode, ConnectionClosed


def forked() -> ConnectionClosed:
    """Return the error of a copy."""
    return ConnectionClosed(CloseCode.ABNORMAL, "the client was created before a fork; create one in each process")


def check_process(pid: int) -> None:
    """Raise `ConnectionClosed` unless this is the process ``pid``."""
    if os.getpid() != pid:
        raise forked()
