"""`Callee`: which function runs for which URI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar, overload

from juggler.broker.names import check_uris
from juggler.callee.thunk import Deadline, Pool, Thunk
from juggler.errors import ConfigError
from juggler.process.loading import load_object

F = TypeVar("F", bound=Callable[..., Any])


class Callee(Mapping[str, Thunk]):
    """A mapping of URIs to functions that is filled with `register` and `include`.

    A call's arguments become those of the function: an array by position, an object by name, any other value as the
    only one; what is annotated is checked and converted. What it returns is encoded as JSON and becomes the result; an
    exception becomes an error. It may block as it likes: many run at a time, each in a greenlet of its own. Greenlets
    are reused, so what a function keeps in greenlet-local or context variables is seen by later calls.
    """

    def __init__(self) -> None:
        self._thunks: dict[str, Thunk] = {}

    @overload
    def register(
        self, uri: str, *, raw: bool = ..., whole: bool = ..., pool: Pool | None = ..., deadline: Deadline = ...
    ) -> Callable[[F], F]: ...

    @overload
    def register(
        self,
        uri: str,
        function: F,
        *,
        raw: bool = ...,
        whole: bool = ...,
        pool: Pool | None = ...,
        deadline: Deadline = ...,
    ) -> F: ...

    def register(
        self,
        uri: str,
        function: F | None = None,
        *,
        raw: bool = False,
        whole: bool = False,
        pool: Pool | None = None,
        deadline: Deadline = "inform",
    ) -> F | Callable[[F], F]:
        """Bind a function to a URI; without ``function``, return a decorator that does. The function is unchanged.

        Args:
            uri: the URI.
            function: any callable but a coroutine function.
            raw: give it the `callee.Call` itself: URI, identifiers, the arguments as JSON text, the time left.
            whole: give the arguments as they are to its only parameter, an array or object too.
            pool: ``"thread"`` or ``"process"`` for what would stop all greenlets: long computations, C extensions
                that wait. One for processes has to be found again by importing the callee.
            deadline: ``"enforce"`` raises `callee.DeadlineExceeded` in it when nobody waits for the result any more;
                in a process, it ends the process. ``"inform"`` leaves it to `callee.given_up`.

        Raises:
            ValueError: the URI cannot be used, or has a function already; or an option cannot be meant.
            TypeError: what is to be bound is no plain function.
        """
        if not isinstance(uri, str):
            raise TypeError(f'expected a URI, as in @rpc.register("greet"), got {uri!r}')
        check_uris([uri])
        self._check_free(uri)

        def bind(function: F) -> F:
            self._add(Thunk(uri, function, raw=raw, whole=whole, pool=pool, deadline=deadline))
            return function

        return bind if function is None else bind(function)

    def include(self, source: ModuleType | Mapping[str, Thunk] | object, prefix: str = "") -> None:
        """Bind several functions at once, each to the prefix with its name.

        Args:
            source: a module, of which its own public functions are taken, or those that its ``__all__`` names; another
                `Callee`; or an object, of which the public methods are taken.
            prefix: what the URIs begin with, ``"math."`` for example.

        Raises:
            ValueError: as `register`; or there is nothing to bind.
        """
        thunks = [thunk.renamed(f"{prefix}{thunk.uri}") for thunk in _thunks_of(source)]
        if not thunks:
            raise ValueError(f"expected public functions, found none in {source!r}")
        for uri in check_uris(thunk.uri for thunk in thunks):
            self._check_free(uri)
        for thunk in thunks:
            self._add(thunk)

    def check(self) -> None:
        """See that all functions can be called; whoever serves them does.

        Raises:
            juggler.errors.ConfigError: one cannot; says why.
        """
        for thunk in self._thunks.values():
            thunk.check()

    def __getitem__(self, uri: str) -> Thunk:
        return self._thunks[uri]

    def __iter__(self) -> Iterator[str]:
        return iter(self._thunks)

    def __len__(self) -> int:
        return len(self._thunks)

    def _add(self, thunk: Thunk) -> None:
        self._check_free(thunk.uri)
        self._thunks[thunk.uri] = thunk

    def _check_free(self, uri: str) -> None:
        if uri in self._thunks:
            raise ValueError(f"{uri}: a function is registered already")


def _thunks_of(source: Any) -> list[Thunk]:
    if isinstance(source, Callee):
        return list(source.values())
    if isinstance(source, ModuleType):
        named = getattr(source, "__all__", None)
        names = named if named is not None else [name for name in vars(source) if not name.startswith("_")]
        members = [(name, getattr(source, name)) for name in names]
        if named is None:  # what it has imported is not its own
            members = [each for each in members if getattr(each[1], "__module__", None) == source.__name__]
        return [Thunk(name, member) for name, member in members if inspect.isroutine(member)]
    methods = inspect.getmembers(source, inspect.ismethod)
    return [Thunk(name, method) for name, method in methods if not name.startswith("_")]


def load_callee(name: str) -> Callee:
    """Import ``MODULE:OBJECT``, a `Callee`. The current directory is searched first.

    Raises:
        ConfigError: the module or object does not exist, it is not a `Callee`, no function is registered, or one cannot
            be called.
    """
    found = load_object(name, "callee.demo:rpc")
    if not isinstance(found, Callee):
        raise ConfigError(f"{name!r}: expected a callee.Callee, got {type(found).__name__}")
    if not found:
        raise ConfigError(f"{name!r}: no function is registered")
    found.check()
    return found
