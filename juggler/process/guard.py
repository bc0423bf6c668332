"""Processes that we started do not outlive us, however we end: killed, too."""

from __future__ import annotations

import subprocess
from contextlib import suppress

# Its standard input is a pipe that only we hold open, and on which it reads whose sessions begin and end. When the pipe
# ends, those that are left are killed.
_SCRIPT = """
pids=
while read -r what pid; do
  case $what in
    add) pids="$pids -$pid";;
    remove) left=; for each in $pids; do [ "$each" = "-$pid" ] || left="$left $each"; done; pids=$left;;
  esac
done
[ -z "$pids" ] || kill -s KILL -- $pids
"""


class ProcessGuard:
    """A process beside us, that kills sessions when we have ended without `close`.

    Works with and without gevent's monkey-patching.
    """

    def __init__(self) -> None:
        # A session of its own: a Ctrl-C in the terminal is not for it.
        self._process = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(self, pid: int) -> None:
        """Guard a process, and what it starts itself; it has to be the leader of a session."""
        self._tell(f"add {pid}\n")

    def remove(self, pid: int) -> None:
        """Forget a process that has ended: its number may be another's soon."""
        with suppress(OSError, ValueError):  # nothing is guarded any more
            self._tell(f"remove {pid}\n")

    def close(self) -> None:
        """Guard nothing any more. Idempotent. To be called before the processes are waited for."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
