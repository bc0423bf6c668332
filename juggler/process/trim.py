"""Return memory that large messages have used to the system.

glibc's ``free`` keeps it: after a burst of messages of 1 MB, a server went on using 615 MB of which it needed 57 MB.
Its ``malloc_trim`` returns free pages. It took about 0.1 ms of CPU time per MB returned, and under 1 ms if there was
nothing to return. The threshold for ``mmap`` (``MALLOC_MMAP_THRESHOLD_``) does so at once, but made messages of 1 MB
cost 20 to 40 % more. With other C libraries, this module does nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent

from juggler.process.process_memory import resident

PERIOD = 10.0
"""Seconds between calls of ``malloc_trim``."""

GROWTH = 64 * 1024 * 1024
"""Bytes that a process has to use beyond those at its start."""


@contextmanager
def returned_memory() -> Iterator[None]:
    """Return free memory to the system every `PERIOD` during a ``with`` block, while the process has grown."""
    trim = _malloc_trim()
    if trim is None:
        yield
        return
    greenlet = gevent.spawn(_trim_forever, trim, resident() or 0)
    greenlet.name = "juggler-trim"
    try:
        yield
    finally:
        greenlet.kill(block=False)


def _malloc_trim() -> Callable[[int], object] | None:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


def _trim_forever(trim: Callable[[int], object], base: int) -> None:
    while True:
        gevent.sleep(PERIOD)
        if (resident() or 0) > base + GROWTH:
            trim(0)
