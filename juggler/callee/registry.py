"""`Callee`: a registry of functions by URI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from types import ModuleType
from typing import Any, TypeVar, overload

from juggler.broker import IncomingCall, is_from_juggler
from juggler.broker.names import check_uris
from juggler.callee.around import Around, check_around
from juggler.callee.failures import CallError
from juggler.callee.thunk import Cancel, Deadline, Pool, Thunk
from juggler.errors import ConfigError
from juggler.process.loading import load_object
from juggler.protocol.connection_events import (
    ON_CONNECT,
    ON_DISCONNECT,
    SERVER_URIS,
    ConnectionEvent,
    decode_connection_event,
)

F = TypeVar("F", bound=Callable[..., Any])
G = TypeVar("G", bound=Around)


class Callee(Mapping[str, Thunk]):
    """A mapping of URIs to functions, filled with `register` and `include`. `around` wraps their calls.

    Arguments are passed by position from an array, by name from an object, and any other value as the only argument.
    They are validated against the annotations and converted. The return value is encoded as JSON. If the function
    raises, the caller receives the error. Functions may block: each call runs in its own greenlet, with context
    variables of its own. Greenlets are reused, so later calls see the greenlet-local variables that a function sets.
    """

    def __init__(self) -> None:
        self._thunks: dict[str, Thunk] = {}
        self._around: tuple[Around, ...] = ()

    @overload
    def register(
        self,
        uri: str,
        *,
        raw: bool = ...,
        whole: bool = ...,
        pool: Pool | None = ...,
        deadline: Deadline = ...,
        cancel: Cancel = ...,
        coalesce: float = ...,
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
        cancel: Cancel = ...,
        coalesce: float = ...,
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
        cancel: Cancel = "inform",
        coalesce: float = 0.0,
    ) -> F | Callable[[F], F]:
        """Register a function for a URI. Without ``function``, return a decorator. The function is unchanged.

        Args:
            uri: the URI.
            function: any callable except a coroutine function.
            raw: pass the `callee.Call` itself: URI, identifiers, arguments as JSON text, time left.
            whole: pass the arguments unchanged to the only parameter, even an array or object.
            pool: ``"thread"`` or ``"process"`` for functions that would block all greenlets: long computations,
                blocking C extensions. A pool process finds the function by importing the callee.
            deadline: ``"enforce"`` raises `callee.DeadlineExceeded` in the function at the deadline, or kills its pool
                process. ``"inform"`` leaves it to the function to ask `callee.given_up`.
            cancel: ``"inform"`` leaves it to the function to ask `callee.cancelled`. ``"raise"`` also raises
                `callee.Cancelled` in it; a pool process that does not end the function within a second is replaced.
                ``"ignore"`` lets the function complete as if the call had not been cancelled.
            coalesce: seconds for which a part of a generator is held, so that the next ones are joined to it; at most
                1. Parts are also joined while earlier ones are being stored. Default: 0.

        Raises:
            ValueError: the URI is invalid or has a function already, or an option is invalid.
            TypeError: ``function`` is not a plain function.
        """
        if not isinstance(uri, str):
            raise TypeError(f'expected a URI, as in @rpc.register("greet"), got {uri!r}')
        check_uris([uri])
        if uri in SERVER_URIS:
            raise ValueError(f"{uri}: reserved, register it with on_connect or on_disconnect")
        self._check_free(uri)

        def bind(function: F) -> F:
            self._add(
                Thunk(
                    uri,
                    function,
                    raw=raw,
                    whole=whole,
                    pool=pool,
                    deadline=deadline,
                    cancel=cancel,
                    coalesce=coalesce,
                    around=self._around,
                )
            )
            return function

        return bind if function is None else bind(function)

    def include(self, source: ModuleType | Mapping[str, Thunk] | object, prefix: str = "") -> None:
        """Register several functions, each under the prefix followed by its name.

        Args:
            source: a module (the functions in its ``__all__``, or all public functions defined in it), another
                `Callee` (with the generators that wrap its calls so far), or an object (its public methods).
            prefix: prefix of the URIs, for example ``"math."``.

        Raises:
            ValueError: as for `register`, or there are no functions.
        """
        thunks = [thunk.included(_prefixed(prefix, thunk.uri), self._around) for thunk in _thunks_of(source)]
        if not thunks:
            raise ValueError(f"expected public functions, found none in {source!r}")
        for uri in check_uris(thunk.uri for thunk in thunks):
            self._check_free(uri)
        for thunk in thunks:
            self._add(thunk)

    def around(self, generator: G) -> G:
        """Wrap each call of every function with a generator, for example to open and close a database session.

        ::

            @rpc.around
            def transaction():
                with Session(engine) as session, session.begin():
                    current_session.set(session)
                    yield

        The generator runs up to its ``yield`` before the function, and from there after it and the encoding of its
        result, in the same greenlet, thread or process and in the context of the call. An exception is raised at the
        ``yield``: arguments that do not match, any exception of the function, a result that JSON does not support. If
        the generator catches it and returns, the call succeeds with ``null``. Exceptions of the generator itself become
        the error of the call. Several generators nest, the first one outermost.

        Args:
            generator: a generator function without parameters that yields exactly once. It is unchanged.

        Raises:
            TypeError: ``generator`` is not such a function.
        """
        check_around(generator)
        place = len(self._around)  # within the earlier ones, around those of an included callee
        for thunk in self._thunks.values():
            thunk.around = (*thunk.around[:place], generator, *thunk.around[place:])
        self._around += (generator,)
        return generator

    def on_connect(self, function: F) -> F:
        """Register the function that servers with the option ``connection_events`` call when a client has connected.

        ::

            @rpc.on_connect
            def joined(event: ConnectionEvent) -> None:
                print(event.identity, event.connection, event.address)

        At most once for each connection, and best effort: the server waits for nothing. An event is lost if no callee
        processes it within a minute, or if the server or Redis is lost. Clients cannot call the function.

        Args:
            function: a plain function that receives a `callee.ConnectionEvent`. It is unchanged, its result is ignored.

        Raises:
            ValueError: there is such a function already.
            TypeError: it is not a plain function.
        """
        self._add(Thunk(ON_CONNECT, _receiver(function), raw=True, around=self._around))
        return function

    def on_disconnect(self, function: F) -> F:
        """Register the function for clients that have disconnected, with the code and reason; see `on_connect`.

        It may run before the one for the same client that has connected.
        """
        self._add(Thunk(ON_DISCONNECT, _receiver(function), raw=True, around=self._around))
        return function

    def check(self) -> None:
        """Check that all functions can be called. Workers do this at start.

        Raises:
            juggler.errors.ConfigError: the annotations of a function are not supported.
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


def _prefixed(prefix: str, uri: str) -> str:
    return uri if uri in SERVER_URIS else f"{prefix}{uri}"


def _receiver(function: Callable[[ConnectionEvent], object]) -> Callable[[IncomingCall], None]:
    """Return a raw function that calls a function with the event of a server, and refuses other callers."""
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"expected a plain function, got {function!r}")

    @wraps(function)
    def receive(call: IncomingCall) -> None:
        if not is_from_juggler(call.msg_uuid):
            raise CallError(f"{call.uri} is called by servers only", code="forbidden")
        function(decode_connection_event(call.args, call.caller.identity))

    return receive


def _thunks_of(source: Any) -> list[Thunk]:
    if isinstance(source, Callee):
        return list(source.values())
    if isinstance(source, ModuleType):
        named = getattr(source, "__all__", None)
        names = named if named is not None else [name for name in vars(source) if not name.startswith("_")]
        members = [(name, getattr(source, name)) for name in names]
        if named is None:  # without what the module imported
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
