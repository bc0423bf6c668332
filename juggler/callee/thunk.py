"""A thunk: the function registered for a URI, with its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, get_args

from msgspec import UNSET, Raw

from juggler.broker import Announcement, IncomingCall
from juggler.callee.around import Around
from juggler.callee.binding import Binding
from juggler.errors import ConfigError
from juggler.protocol.codec import decode_args, decode_args_exactly

Pool: TypeAlias = Literal["thread", "process"]
Deadline: TypeAlias = Literal["inform", "enforce"]
Cancel: TypeAlias = Literal["inform", "raise", "ignore"]

MAX_COALESCE = 1.0
"""Longest time for which parts may be held to be joined, in seconds."""

_MAX_SIGNATURE = 200
_MAX_DOC = 500


class Thunk:
    """The function registered for a URI. Calling it with decoded arguments calls the function alone as a client would.

    Attributes:
        uri: the URI.
        function: the function.
        raw: whether the function receives the `callee.Call` instead of the arguments.
        pool: where it runs: ``None`` for a greenlet, ``"thread"`` or ``"process"`` for a pool.
        deadline: ``"enforce"`` raises `DeadlineExceeded` in the function at the deadline.
        cancel: what a cancelled call does to the function: ``"inform"`` makes `callee.cancelled` true, ``"raise"`` also
            raises `Cancelled` in it, ``"ignore"`` does nothing.
        coalesce: seconds for which a part is held, so that the next ones are joined to it.
        around: generators that wrap its calls, the first one outermost.
    """

    # Read for each call: slots are faster than the dict, which the cached properties need.
    __slots__ = ("__dict__", "_whole", "around", "deadline", "function", "pool", "raw", "uri")

    def __init__(
        self,
        uri: str,
        function: Callable[..., Any],
        *,
        raw: bool = False,
        whole: bool = False,
        pool: Pool | None = None,
        deadline: Deadline = "inform",
        cancel: Cancel = "inform",
        coalesce: float = 0.0,
        around: Iterable[Around] = (),
    ) -> None:
        """Bind a function. Annotations are evaluated by `check`, after the names they use have been defined.

        Raises:
            TypeError: the function is not a plain function.
            ValueError: an option has an invalid value, or two options contradict each other.
        """
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"{uri}: expected a plain function, got {function!r}")
        if pool is not None and pool not in get_args(Pool):
            raise ValueError(f"{uri}: pool: expected 'thread', 'process' or None, got {pool!r}")
        if deadline not in get_args(Deadline):
            raise ValueError(f"{uri}: deadline: expected 'inform' or 'enforce', got {deadline!r}")
        if deadline == "enforce" and pool == "thread":
            raise ValueError(
                f"{uri}: deadline='enforce' needs pool='process' or no pool: threads cannot be interrupted"
            )
        if cancel not in get_args(Cancel):
            raise ValueError(f"{uri}: cancel: expected 'inform', 'raise' or 'ignore', got {cancel!r}")
        if cancel == "raise" and pool == "thread":
            raise ValueError(f"{uri}: cancel='raise' needs pool='process' or no pool: threads cannot be interrupted")
        if isinstance(coalesce, bool) or not 0 <= coalesce <= MAX_COALESCE:
            raise ValueError(f"{uri}: coalesce: expected 0 to {MAX_COALESCE:g} s, got {coalesce!r}")
        if raw and whole:
            raise ValueError(f"{uri}: expected raw or whole, got both")
        self.uri = uri
        self.function = function
        self.raw = raw
        self.pool = pool
        self.deadline = deadline
        self.cancel = cancel
        self.coalesce = coalesce
        self.around = tuple(around)
        self._whole = whole

    @cached_property
    def _binding(self) -> Binding:
        return Binding(self.uri, self.function, self._whole)

    def check(self) -> None:
        """Check the annotations of the function.

        Raises:
            ConfigError: an annotation cannot be evaluated, or JSON does not support its type.
        """
        if not self.raw:
            try:
                _ = self._binding
            except TypeError as error:
                raise ConfigError(str(error)) from error

    def __call__(self, value: Any) -> Any:
        return self._binding.call(value)

    def run(self, call: IncomingCall) -> Any:
        """Call the function with the arguments of a call and return its result."""
        if self.raw:
            return self.function(call)
        binding = self._binding
        return binding.call(decode_args_exactly(call.args) if binding.is_exact else decode_args(call.args))

    def included(self, uri: str, around: Iterable[Around]) -> Thunk:
        """Return a copy for another URI, whose calls are also wrapped by ``around``, further out."""
        return self._copy(uri, self.pool, (*around, *self.around))

    def in_place(self) -> Thunk:
        """Return a copy that runs in a greenlet instead of a pool."""
        return self._copy(self.uri, None, self.around)

    def _copy(self, uri: str, pool: Pool | None, around: Iterable[Around]) -> Thunk:
        return Thunk(
            uri,
            self.function,
            raw=self.raw,
            whole=self._whole,
            pool=pool,
            deadline=self.deadline,
            cancel=self.cancel,
            coalesce=self.coalesce,
            around=around,
        )

    @cached_property
    def signature(self) -> str:
        """Parameters and result, for the catalogue."""
        return ("(raw)" if self.raw else self._binding.signature)[:_MAX_SIGNATURE]

    @cached_property
    def doc(self) -> str:
        """Docstring, shortened, for the catalogue."""
        return self._docstring[:_MAX_DOC]

    @cached_property
    def _docstring(self) -> str:
        function = self.function
        while isinstance(function, partial):  # which has the docstring of `partial`
            function = function.func
        return inspect.getdoc(function) or ""

    @cached_property
    def example(self) -> str:
        """Arguments that the function accepts, as JSON text, for the catalogue; empty if it takes none."""
        return "" if self.raw else self._binding.example()

    @cached_property
    def schema(self) -> bytes:
        """JSON Schemas of arguments and result, as JSON text, for the catalogue; empty if there are none."""
        return b"" if self.raw else self._binding.schema(self._docstring)

    def announcement(self, rate: float = 0.0, process: str = "", has_schema: bool = True) -> Announcement:
        """Return the entry for the catalogue."""
        schema = Raw(self.schema) if has_schema and self.schema else UNSET
        return Announcement(self.signature, self.doc, rate, self.example, process, schema)
