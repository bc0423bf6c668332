"""`Callee`: which function runs for which URI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

from callee.binding import Thunk, bind
from juggler.broker.names import check_uris

F = TypeVar("F", bound=Callable[..., Any])


class Callee(Mapping[str, Thunk]):
    """A mapping of URIs to functions that is filled with `register`.

    A function takes the call's arguments, decoded, as its one argument. It may block as it likes: many run at a time,
    each in a greenlet of its own. What it returns is encoded as JSON and becomes the result; an exception becomes an
    error with its text. Greenlets are reused, so what a function keeps in greenlet-local or context variables is seen
    by later calls.
    """

    def __init__(self) -> None:
        self._thunks: dict[str, Thunk] = {}

    @overload
    def register(self, uri: str) -> Callable[[F], F]: ...

    @overload
    def register(self, uri: str, function: F) -> F: ...

    def register(self, uri: str, function: F | None = None) -> F | Callable[[F], F]:
        """Bind a function to a URI; without ``function``, return a decorator that does. The function is unchanged.

        Raises:
            ValueError: the URI cannot be used, or has a function already.
            TypeError: what is to be bound is no plain function.
        """
        if not isinstance(uri, str):
            raise TypeError(f'expected a URI, as in @rpc.register("greet"), got {uri!r}')
        check_uris([uri])
        self._check_free(uri)
        if function is None:
            return lambda decorated: self._bind(uri, decorated)
        return self._bind(uri, function)

    def __getitem__(self, uri: str) -> Thunk:
        return self._thunks[uri]

    def __iter__(self) -> Iterator[str]:
        return iter(self._thunks)

    def __len__(self) -> int:
        return len(self._thunks)

    def _bind(self, uri: str, function: F) -> F:
        self._check_free(uri)
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"{uri}: expected a plain function, got {function!r}")
        self._thunks[uri] = bind(function)
        return function

    def _check_free(self, uri: str) -> None:
        if uri in self._thunks:
            raise ValueError(f"{uri}: a function is registered already")
