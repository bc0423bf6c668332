"""Child processes do not outlive this process, even if it is killed."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

# Its standard input is a pipe that only this process holds open. The guard reads from it which sessions to guard. When
# the pipe closes, it kills them and removes the directory $1.
_SCRIPT = """
pids=
while read -r what pid; do
  case $what in
    add) pids="$pids -$pid";;
    remove) left=; for each in $pids; do [ "$each" = "-$pid" ] || left="$left $each"; done; pids=$left;;
  esac
done
[ -z "$pids" ] || kill -s KILL -- $pids
[ -z "$1" ] || rm -rf -- "$1"
"""


class ProcessGuard:
    """A helper process that kills sessions if this process exits without `close`.

    Works with and without gevent's monkey-patching.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Start the helper process.

        Args:
            directory: directory to remove as well.
        """
        # A session of its own, so that a Ctrl-C in the terminal does not reach it.
        self._process = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _SCRIPT, "sh", str(directory or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(self, pid: int) -> None:
        """Guard a process and its children. It has to be the leader of a session."""
        self._send(f"add {pid}\n")

    def remove(self, pid: int) -> None:
        """Stop guarding a process. Call it before waiting for the process, whose number may be reused afterwards."""
        with suppress(OSError, ValueError):  # closed: nothing is guarded
            self._send(f"remove {pid}\n")

    def close(self) -> None:
        """Stop guarding. Idempotent. Call it before waiting for the processes."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
