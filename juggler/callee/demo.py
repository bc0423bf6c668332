"""Demo functions: ``test.echo``, ``test.reverse`` and ``test.delay``.

Run them with ``juggler-callee callee.demo:rpc``. For load tests over many URIs, the environment variable
``JUGGLER_DEMO_DELAYS=n`` adds ``test.delay.0`` to ``test.delay.<n-1>``.
"""

from __future__ import annotations

import os
import time
from typing import Any

from juggler.callee.failures import CallError
from juggler.callee.registry import Callee

MAX_DELAY_MS = 24 * 3600 * 1000


def echo(value: Any) -> Any:
    """Return the argument, any JSON value."""
    return value


def reverse(text: str) -> str:
    """Return a string with its characters in reverse order."""
    return text[::-1]


def delay(milliseconds: str) -> int:
    """Wait for a number of milliseconds, given as a string, and return it. A negative number does not wait."""
    digits = milliseconds[1:] if milliseconds.startswith(("+", "-")) else milliseconds
    is_number = digits.isascii() and digits.isdecimal()
    if not is_number or len(digits) > 9 or int(milliseconds) > MAX_DELAY_MS:
        raise CallError(f'expected milliseconds as a string of digits, as in "250", got {milliseconds!r:.60}')
    time.sleep(max(0, int(milliseconds)) / 1000)
    return int(milliseconds)


def make(delays: int = 0) -> Callee:
    """Return the demo functions, including ``test.delay.0`` to ``test.delay.<delays - 1>``."""
    rpc = Callee()
    # Whole, for compatibility with the Go package: an array of one string is refused.
    rpc.register("test.echo", echo, whole=True)
    rpc.register("test.reverse", reverse, whole=True)
    rpc.register("test.delay", delay, whole=True)
    for number in range(delays):
        rpc.register(f"test.delay.{number}", delay, whole=True)
    return rpc


rpc = make(int(os.environ.get("JUGGLER_DEMO_DELAYS") or 0))
