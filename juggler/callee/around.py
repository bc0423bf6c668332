"""Generators that wrap calls: they run up to their ``yield`` before the function, and from there after it.

They behave as under `contextlib.contextmanager`. An exception of the function is raised at the ``yield``; if the
generator catches it and returns, the call succeeds with ``null``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Around: TypeAlias = Callable[[], Generator[Any, Any, Any]]
"""A generator function without parameters, whose generator yields exactly once."""


def check_around(function: Any) -> None:
    """Check that a function can wrap calls.

    Raises:
        TypeError: it is not a generator function, or has a required parameter.
    """
    if not inspect.isgeneratorfunction(function):
        raise TypeError(f"around: expected a generator function, got {function!r}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TypeError(f"around: {_name(function)}: expected no parameters ({error})") from None


def surround(arounds: Sequence[Around], body: Callable[[], T]) -> T | None:
    """Run ``body`` within generators, the first one outermost, and return its result.

    Returns ``None`` if a generator has caught the exception of ``body``.

    Raises:
        RuntimeError: a generator did not yield exactly once.
        BaseException: any exception of ``body`` or of a generator.
    """
    if not arounds:
        return body()
    around = arounds[0]
    generator = around()
    try:
        next(generator)
    except StopIteration:
        raise RuntimeError(f"around: {_name(around)} did not yield") from None
    try:
        result = surround(arounds[1:], body)
    except BaseException as error:
        if not _catches(around, generator, error):
            raise
        return None
    try:
        next(generator)
    except StopIteration:
        return result
    raise _yielded_again(around, generator)


def _catches(around: Around, generator: Generator[Any, Any, Any], error: BaseException) -> bool:
    """Raise an exception at the ``yield``. Return whether the generator caught it."""
    traceback = error.__traceback__
    try:
        generator.throw(error)
    except StopIteration:
        return True
    except BaseException as raised:
        # A generator cannot pass on a StopIteration: Python wraps it.
        is_passed_on = raised is error or (isinstance(error, StopIteration) and raised.__cause__ is error)
        if not is_passed_on:
            raise
        error.__traceback__ = traceback  # without the frames of the generator
        return False
    raise _yielded_again(around, generator)


def _yielded_again(around: Around, generator: Generator[Any, Any, Any]) -> RuntimeError:
    generator.close()
    return RuntimeError(f"around: {_name(around)} yielded more than once")


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
