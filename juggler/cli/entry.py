"""The console scripts ``juggler`` and ``juggler-callee``: they can be stopped while they import the commands.

Until a command handles signals itself, Ctrl-C exits with code 130 and without a traceback. As process 1 of a container,
which SIGTERM does not stop by default, it exits with code 143. Nothing is imported here that takes time.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def juggler() -> None:
    """Run ``juggler``."""
    _run("juggler.cli.main")


def juggler_callee() -> None:
    """Run ``juggler-callee``."""
    _run("juggler.callee.cli")


def end_startup() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again; called when the imports are done."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(module: str) -> None:
    # A signal that the parent process ignores stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)
    import_module(module).main()


def _exit(number: int, frame: FrameType | None) -> None:
    # Not SystemExit: modules that are being imported may catch it, and their locks may be held.
    os._exit(128 + number)
