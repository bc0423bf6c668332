"""A thunk: the function bound to a URI, with how it wants to be called and where it is to run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from juggler.broker import Announcement
from juggler.callee.binding import Binding
from juggler.callee.current import Call
from juggler.errors import ConfigError
from juggler.protocol.codec import decode_args

Pool: TypeAlias = Literal["thread", "process"]
Deadline: TypeAlias = Literal["inform", "enforce"]

_MAX_SIGNATURE = 200
_MAX_DOC = 500


class Thunk:
    """The function bound to a URI. Called with decoded arguments, it calls the function as a client would.

    Attributes:
        uri: the URI.
        function: the function.
        raw: whether it gets the `Call` in place of the arguments.
        pool: where it runs: ``None`` in a greenlet, ``"thread"`` or ``"process"`` in one of these.
        deadline: ``"enforce"`` raises `DeadlineExceeded` in it when its time is over.
    """

    def __init__(
        self,
        uri: str,
        function: Callable[..., Any],
        *,
        raw: bool = False,
        whole: bool = False,
        pool: Pool | None = None,
        deadline: Deadline = "inform",
    ) -> None:
        """Bind a function. Its annotations are looked at with `check`, when all that they name is defined.

        Raises:
            TypeError: it is no plain function.
            ValueError: an option has another value than those above, or two contradict each other.
        """
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"{uri}: expected a plain function, got {function!r}")
        if pool is not None and pool not in get_args(Pool):
            raise ValueError(f"{uri}: pool: expected 'thread', 'process' or None, got {pool!r}")
        if deadline not in get_args(Deadline):
            raise ValueError(f"{uri}: deadline: expected 'inform' or 'enforce', got {deadline!r}")
        if deadline == "enforce" and pool == "thread":
            raise ValueError(f"{uri}: deadline='enforce' needs pool='process' or none: threads cannot be interrupted")
        if raw and whole:
            raise ValueError(f"{uri}: expected raw or whole, got both")
        self.uri = uri
        self.function = function
        self.raw = raw
        self.pool = pool
        self.deadline = deadline
        self._whole = whole

    @cached_property
    def _binding(self) -> Binding:
        return Binding(self.uri, self.function, self._whole)

    def check(self) -> None:
        """See that the function can be called.

        Raises:
            ConfigError: an annotation cannot be understood, or no JSON makes such a value.
        """
        if not self.raw:
            try:
                _ = self._binding
            except TypeError as error:
                raise ConfigError(str(error)) from error

    def __call__(self, value: Any) -> Any:
        return self._binding.call(value)

    def run(self, call: Call) -> Any:
        """Call the function for a call, and return what it returns."""
        if self.raw:
            return self.function(call)
        return self._binding.call(decode_args(call.args))

    def renamed(self, uri: str) -> Thunk:
        """Return the same under another URI."""
        return Thunk(uri, self.function, raw=self.raw, whole=self._whole, pool=self.pool, deadline=self.deadline)

    @cached_property
    def signature(self) -> str:
        """The parameters and the result, for people."""
        return ("(raw)" if self.raw else self._binding.signature)[:_MAX_SIGNATURE]

    @cached_property
    def doc(self) -> str:
        """The docstring, or its beginning."""
        return (inspect.getdoc(self.function) or "")[:_MAX_DOC]

    def announcement(self, rate: float = 0.0) -> Announcement:
        """Return what is said of it to whoever asks what is served."""
        return Announcement(self.signature, self.doc, rate)
