"""Wait for conditions, never for durations."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import gevent

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 20.0, message: str = "") -> T:
    """Poll ``condition`` until it returns a true value, and return that value.

    Args:
        condition: called repeatedly; may raise AssertionError for "not yet".
        timeout: seconds after which the test fails.
        message: part of the failure.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = condition()
            failure = AssertionError(f"not within {timeout:g} s: {message or condition}; last value {value!r}")
        except AssertionError as error:
            value, failure = None, error  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() > deadline:
            raise failure
        gevent.sleep(0.002)
