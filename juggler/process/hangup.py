"""Whether a SIGHUP comes from a terminal that has closed, or asks for a reload."""

from __future__ import annotations

import os
import signal


class Hangup:
    """The terminal of this process, if it has one. Create it before a handler for SIGHUP is set.

    Attributes:
        stops: whether the process has to stop when its terminal closes.
    """

    def __init__(self, stops: bool = False) -> None:
        """Look for the terminal, unless it is known to have been there."""
        # nohup starts programs with SIGHUP ignored: they outlive their terminal.
        self.stops = stops or (_has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)

    def has_closed(self) -> bool:
        """Return whether the terminal has closed, so that the process has to stop."""
        return self.stops and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
