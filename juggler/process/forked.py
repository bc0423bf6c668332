"""Processes forked by functions: they must not go on as a second server or worker on the connections of the first."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from socket import socket
from typing import Any, NoReturn
from weakref import WeakSet

count = 0
"""Forks between the first process that imported this module and this one."""

_own: WeakSet[socket] = WeakSet()
_leaves_loop = False


def close_in_children(own: Any) -> None:
    """Close a socket in processes that this one forks. They could use it, and would keep it open."""
    _own.add(own)


def leave_loop_in_children() -> None:
    """Give processes that this one forks a new event loop: the greenlets of this process do not run in them."""
    global _leaves_loop
    _leaves_loop = True


def leave(error: BaseException | None = None) -> NoReturn:
    """Exit a forked process, as Python does at the end of a program or at an exception."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _after_in_child() -> None:
    global count
    count += 1
    if _own:
        # Not closed: their objects would close the descriptors again, which by then may be those of other files.
        nothing = os.open(os.devnull, os.O_RDWR)
        for own in list(_own):
            if own.fileno() >= 0:
                os.dup2(nothing, own.fileno(), inheritable=False)
        os.close(nothing)
        _own.clear()
    if _leaves_loop:
        _leave_loop()


def _leave_loop() -> None:
    import gevent.hub
    from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

    hub = gevent.hub.get_hub()
    gevent.hub.set_hub(None)
    gevent.hub.set_loop(None)
    hub.loop.destroy()
    current = getcurrent()
    if current.parent is not None:
        # The end of this greenlet would resume the hub, whose loop is gone.
        current.parent = greenlet(lambda *_: leave(), current.parent)


os.register_at_fork(after_in_child=_after_in_child)
