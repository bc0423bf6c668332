"""The HTTP API: publish, call and control over HTTP, as a WSGI application for any server.

::

    application = Api(Backend("redis://127.0.0.1:6379"), keys=[os.environ["JUGGLER_API_KEY"]])

A program with a key can do everything that a backend can: serve it on loopback or in a private network.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from juggler import __version__
from juggler.backend.api_messages import (
    ABSENT,
    Call,
    Commanded,
    Connections,
    Disconnect,
    Failure,
    Listed,
    Problem,
    Publish,
    Published,
    Returned,
    Unsubscribe,
)
from juggler.backend.backend import Backend
from juggler.backend.openapi import DOCUMENT, MAX_BATCH, PREFIX, Operation, document
from juggler.errors import BrokerError, ConfigError, Expired, InvalidValue, NackCode, OutcomeUnknown
from juggler.process.logline import Line
from juggler.protocol import codec
from juggler.protocol.server_commands import (
    TIMEOUT,
    ServerCommand,
    connections_command,
    disconnect_command,
    unsubscribe_command,
)

log = logging.getLogger("juggler.api")

MAX_BODY = 8 * 1024 * 1024
"""Default maximum size of a request body, in bytes."""

MAX_TIMEOUT = 60.0
"""Default maximum timeout of a call, in seconds."""

MIN_KEY = 16
"""Minimum length of a key, in characters."""

BATCH_TIME = 10.0
"""Seconds to wait for the answers of servers to all commands of a batch."""

HEALTH = "/healthz"

OPERATIONS = {
    "publish": Operation(Publish, Published, "Publish events."),
    "call": Operation(Call, Returned, "Call functions and wait for their results."),
    "disconnect": Operation(Disconnect, Commanded, "Close connections."),
    "unsubscribe": Operation(Unsubscribe, Commanded, "End subscriptions."),
    "connections": Operation(Connections, Listed, "List connections.", batches=False),
}

StartResponse: TypeAlias = Callable[..., Any]

_PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class _Refusal(Exception):
    """A request that is refused with an HTTP status."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class Api:
    """A WSGI application with ``POST /api/v1/{publish,call,disconnect,unsubscribe,connections}``; see docs/http-api.md.

    ``GET /api/v1/openapi.json`` describes it, ``GET /healthz`` needs no key. Threads and greenlets may share it.
    """

    def __init__(
        self, backend: Backend, *, keys: Iterable[str], max_body: int = MAX_BODY, max_timeout: float = MAX_TIMEOUT
    ) -> None:
        """Create the application.

        Args:
            backend: what it uses; the caller closes it.
            keys: secrets of which a request has one, in ``Authorization: Bearer …``; several while one is replaced.
                Each is printable ASCII without spaces, of at least 16 characters.
            max_body: maximum size of a request body in bytes; others are refused with 413. Default: 8 MiB.
            max_timeout: maximum timeout of a call in seconds, and its default. Default: 60.

        Raises:
            ConfigError: there is no key, or one is too short or has other characters; or a limit is out of range.
        """
        keys = tuple(keys)
        if not keys:
            raise ConfigError("API keys: expected at least one")
        for key in keys:
            if len(key) < MIN_KEY or not (key.isascii() and key.isprintable()) or " " in key:
                # The error does not repeat the key.
                expected = f"at least {MIN_KEY} characters of ASCII without spaces"
                raise ConfigError(f"API key: expected {expected}, got {len(key)} characters")
        if max_body < 1:
            raise ConfigError(f"max_body: expected at least 1 byte, got {max_body}")
        if not 0 < max_timeout <= codec.MAX_TIMEOUT:
            raise ConfigError(
                f"max_timeout: expected more than 0 and at most {codec.MAX_TIMEOUT:.0f}, got {max_timeout}"
            )
        self._backend = backend
        self._digests = [_digest(key) for key in keys]
        self._max_body = max_body
        self._max_timeout = max_timeout
        self._document = msgspec.json.encode(document(OPERATIONS, __version__, max_timeout))
        self._decoders = {name: _decoder(operation) for name, operation in OPERATIONS.items()}
        self._handlers: dict[str, Callable[[list[Any]], list[Any]]] = {
            "publish": self._publish,
            "call": self._call,
            "disconnect": self._disconnect,
            "unsubscribe": self._unsubscribe,
            "connections": self._connections,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        headers: Sequence[tuple[str, str]] = ()
        try:
            status, body = 200, self._respond(environ)
        except _Refusal as refusal:
            status, body, headers = refusal.status, _failure(refusal.status, refusal.message), refusal.headers
        except OSError:
            raise  # the body did not arrive: the HTTP server responds
        except Exception:
            log.exception(Line("api: request failed", path=environ.get("PATH_INFO", "")))
            status, body = 500, _failure(500, "internal error")
        start_response(
            f"{status} {_PHRASES[status]}",
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                *headers,
            ],
        )
        return [b""] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def _respond(self, environ: dict[str, Any]) -> bytes:
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "")
        if path == HEALTH:
            _check_method(method, "GET", "HEAD")
            return b'{"status":"alive"}'
        name = path.removeprefix(PREFIX) if path.startswith(PREFIX) else ""
        if path != DOCUMENT and name not in OPERATIONS:
            raise _Refusal(404, f"path {path[:100]!r}: expected {PREFIX} and one of {', '.join(OPERATIONS)}")
        self._check_key(environ.get("HTTP_AUTHORIZATION", ""))
        if path == DOCUMENT:
            _check_method(method, "GET", "HEAD")
            return self._document
        _check_method(method, "POST")
        decode, handle = self._decoders[name], self._handlers[name]
        try:
            request = decode(self._body(environ))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _Refusal(400, f"body: {str(error)[:200]}") from None
        is_batch = isinstance(request, list)
        if is_batch and not request:
            raise _Refusal(400, f"body: expected 1 to {MAX_BATCH} entries, got none")
        if is_batch and len(request) > MAX_BATCH:
            raise _Refusal(413, f"body: expected at most {MAX_BATCH} entries, got {len(request)}")
        responses = handle(request if is_batch else [request])
        if is_batch:
            return msgspec.json.encode(responses)
        (response,) = responses
        if isinstance(response, Failure):
            raise _Refusal(response.error.code, response.error.message)
        return msgspec.json.encode(response)

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        # All are compared, each in constant time.
        matches = [hmac.compare_digest(digest, each) for each in self._digests]
        if scheme.lower() != "bearer" or True not in matches:
            what = "expected 'Authorization: Bearer KEY'" if scheme.lower() != "bearer" else "unknown API key"
            raise _Refusal(401, what, [("WWW-Authenticate", "Bearer")])

    def _body(self, environ: dict[str, Any]) -> bytes:
        kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _Refusal(415, f"Content-Type: expected application/json, got {kind[:100]!r}")
        length = environ.get("CONTENT_LENGTH", "")
        if length and not (length.isascii() and length.isdigit() and int(length) <= self._max_body):
            raise _Refusal(413, f"body: expected at most {self._max_body} bytes, got {length[:20]}")
        # Chunked requests have no length.
        body: bytes = environ["wsgi.input"].read(int(length) if length else self._max_body + 1)
        if len(body) > self._max_body:
            raise _Refusal(413, f"body: expected at most {self._max_body} bytes")
        return body

    # Operations

    def _publish(self, requests: list[Publish]) -> list[Any]:
        # A batch is published as a whole, unless an event is invalid or the connection breaks.
        events = [(each.channel, bytes(each.args)) for each in requests]
        receivers = _attempt(self._backend.publish_many_json, events)
        if isinstance(receivers, Failure):
            raise _Refusal(receivers.error.code, receivers.error.message)
        return [Published(each) for each in receivers]

    def _call(self, requests: list[Call]) -> list[Any]:
        for each in requests:
            if each.timeout is not None and each.timeout > self._max_timeout:
                raise _Refusal(400, f"timeout: expected at most {self._max_timeout:g} seconds, got {each.timeout:g}")

        def start(each: Call) -> Any:
            timeout = self._max_timeout if each.timeout is None else each.timeout
            return self._backend.start_call_json(
                each.uri, bytes(each.args), timeout, by=codec.decode_args(bytes(each.by))
            )

        def result(pending: Any) -> Returned:
            response = pending.response()
            return Returned(bool(response.failed), msgspec.Raw(response.args))

        # All are started before the first one is awaited.
        started = [_attempt(start, each) for each in requests]
        return [each if isinstance(each, Failure) else _attempt(result, each) for each in started]

    def _disconnect(self, requests: list[Disconnect]) -> list[Any]:
        names = ("connection", "code", "reason")
        return self._command([_made(disconnect_command, each, names) for each in requests])

    def _unsubscribe(self, requests: list[Unsubscribe]) -> list[Any]:
        names = ("connection", "channel", "pattern", "reason")
        return self._command([_made(unsubscribe_command, each, names) for each in requests])

    def _connections(self, requests: list[Connections]) -> list[Any]:
        def connections(command: ServerCommand) -> Listed:
            found = self._backend.command(command)
            return Listed(found.servers, found.answered, found.connections, found.listed, found.errors)

        commands = [_made(connections_command, each, ("connection", "limit")) for each in requests]
        return [_attempt(connections, each) for each in commands]

    def _command(self, commands: Sequence[ServerCommand]) -> list[Any]:
        until = time.monotonic() + BATCH_TIME

        def execute(command: ServerCommand) -> Commanded:
            timeout = TIMEOUT if len(commands) == 1 else min(TIMEOUT, max(0.05, until - time.monotonic()))
            done = self._backend.command(command, timeout)
            return Commanded(done.servers, done.answered, done.connections, done.errors)

        return [_attempt(execute, each) for each in commands]


def _digest(key: str) -> bytes:
    # Digests have one length: the time to compare them does not reveal that of a key.
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _decoder(operation: Operation) -> Callable[[bytes], Any]:
    """Return the decoder of a body: one request or, where there are batches, an array of them."""
    one = msgspec.json.Decoder(operation.request).decode
    if not operation.batches:
        return one
    several = msgspec.json.Decoder(list[operation.request]).decode  # type: ignore[name-defined]
    return lambda body: several(body) if body.lstrip()[:1] == b"[" else one(body)


def _check_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise _Refusal(405, f"expected {allowed[0]}, got {method[:20]}", [("Allow", ", ".join(allowed))])


def _failure(status: int, message: str) -> bytes:
    return msgspec.json.encode(Failure(Problem(status, message)))


def _made(
    make: Callable[..., ServerCommand], request: Disconnect | Unsubscribe | Connections, names: Iterable[str]
) -> ServerCommand:
    """Return the command to servers for a request. If it is invalid, refuse the whole batch."""
    arguments = {name: getattr(request, name) for name in names}
    if request.identity is not ABSENT:
        # null is the identity of no connection. Here, None would mean that none is given.
        identity = codec.decode_args(bytes(request.identity))
        if identity is None:
            raise _Refusal(400, "identity: expected a JSON value other than null, got null")
        arguments["identity"] = identity
    try:
        return make(**arguments)
    except InvalidValue as error:
        raise _Refusal(400, str(error)[:200]) from None


def _attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    """Return the result of a function, or a `Failure` if it raises an error that the client has to know."""
    try:
        return function(argument)
    except BrokerError as error:
        if isinstance(error, OutcomeUnknown) or error.code >= NackCode.INTERNAL:
            log.warning(Line("api: request not executed", error=error))
        return Failure(Problem(error.code if error.code in _PHRASES else 500, error.reason))
    except Expired as error:
        return Failure(Problem(504, str(error)))
    except ConfigError as error:
        log.error(Line("api: Redis refuses", error=error))
        return Failure(Problem(500, "Redis refuses the credentials of the API"))
    except ValueError as error:  # InvalidValue, too
        return Failure(Problem(400, str(error)[:200]))
