"""`Backend`: blocks, for threads and, under gevent's monkey-patching, for greenlets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from juggler.backend.backend_streams import Keeper, Stream
from juggler.backend.calls import BackendCall
from juggler.backend.limits import BaseBackend, check_process
from juggler.backend.operations import DEFAULT_WINDOW, Operations, checked, encoded, stored_parts
from juggler.backend.pool import Pool, Run
from juggler.errors import CloseCode, JugglerError
from juggler.protocol.codec import encode_args
from juggler.protocol.messages import Res
from juggler.protocol.results import result_value
from juggler.protocol.server_commands import (
    LISTED,
    TIMEOUT,
    UNSUBSCRIBED,
    CommandOutcome,
    ServerCommand,
    connections_command,
    disconnect_command,
    unsubscribe_command,
)
from juggler.protocol.server_status import ServerStatus

if TYPE_CHECKING:
    from typing_extensions import Self


class Backend(BaseBackend):
    """Publishes events and calls functions through Redis, without a server in between. Threads may share it.

    It connects when it is first used. Connections are kept for the next request. While Redis is unreachable, each
    request fails with `BrokerUnavailable`; nothing needs to be restarted afterwards. It may be created before a fork,
    as with ``gunicorn --preload`` or Celery: each process has connections of its own.

    Args:
        url: where Redis is, as for `RedisBroker`; see docs/redis.md. Default: ``redis://127.0.0.1:6379``.
        key_prefix: prefix of the names of all keys and channels. Servers and callees must use the same. Default: none.
        sharded_pubsub: publish only to the nodes of a channel's slot; the same as the URL option ``sharded``. Servers
            must agree on it. Default: false.
        by: identity on whose behalf the calls are made: any JSON value of at most 4 KiB, which functions receive as
            that of the caller. Default: none.
        call_timeout: seconds until a call expires, unless the call specifies another timeout. Default: 60.
        call_capacity: maximum calls queued per URI; 0 means unlimited. Default: 10,000.
        max_stream_time: maximum seconds from the first to the last part of a stream. Default: 3,600.
        max_connections: maximum connections to Redis. A quarter of them is for commands; each call whose result is
            being waited for takes one of the others. Default: 64.
        pool_timeout: seconds to wait for a free connection; then the request fails with code 429. Default: 5.

    Attributes:
        shown_url: the URL without its secrets.

    Raises:
        ConfigError: the URL is invalid.
        InvalidValue: JSON cannot represent ``by``, or it is too large.
        ValueError: another option is out of range.
    """

    def _set_up(self) -> None:
        self._pool = Pool(self._url, self._names.version, self._limits)
        self._keeper = Keeper(self._pool.run, self._operations)

    def on_fork(self) -> None:
        """Start with new connections in a child process; see `juggler.process.fork_hooks`."""
        self._pool.begin_process()
        self._operations.begin_process()
        self._keeper.begin_process()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Calls in flight fail, and further requests. Idempotent."""
        self._operations.is_closed = True
        self._keeper.close()
        self._pool.close()

    def publish(self, channel: str, value: Any = None) -> int:
        """Publish an event, and return the number of subscriptions of server processes that received it.

        0 means that no server has a subscriber. A server that is subscribed to the channel and to a pattern counts
        twice. In a cluster, only the servers that are connected to the node of the publication are counted.

        Args:
            channel: channel that clients subscribe to.
            value: any value that JSON can represent.

        Raises:
            BrokerError: the channel is invalid or reserved, or the event is larger than 16 MiB.
            BrokerUnavailable: Redis is unreachable; with `OutcomeUnknown`, the event may have been published.
            ConfigError: Redis refuses the credentials.
            InvalidValue: JSON cannot represent ``value``.
        """
        return self._pool.run(self._operations.publish(channel, encode_args(value)))

    def publish_json(self, channel: str, args: bytes) -> int:
        """Like `publish`, but ``args`` is JSON text in UTF-8, which is published unchanged."""
        return self._pool.run(self._operations.publish(channel, checked(args)))

    def publish_many(self, events: Iterable[tuple[str, Any]]) -> list[int]:
        """Publish events in their order, and return for each what `publish` returns.

        All are checked before the first one is published. The batch is sent in chunks, without waiting for each reply.

        Args:
            events: channels and values; at most 10,000, and 8 MiB of JSON. More are refused: Redis would close the
                connections of servers that have not read them yet.

        Raises:
            BrokerError: the batch is too large (code 413), or as for `publish`.
            BrokerUnavailable: as for `publish`. The error contains how many events were published before.
            InvalidValue: JSON cannot represent a value. The error has the number of the event.
        """
        return self._pool.run(self._operations.publish_many(encoded(events)))

    def publish_many_json(self, events: Iterable[tuple[str, bytes]]) -> list[int]:
        """Like `publish_many`, but of channels and JSON texts in UTF-8, which are published unchanged."""
        return self._pool.run(self._operations.publish_many((channel, checked(args)) for channel, args in events))

    def call(self, uri: str, args: Any = None, timeout: float | None = None, *, by: Any = None) -> Any:
        """Call the function at ``uri`` and return its result.

        Args:
            uri: URI of the function.
            args: any value that JSON can represent.
            timeout: seconds to wait for the result. ``None``: the backend's ``call_timeout``.
            by: identity on whose behalf the call is made. ``None``: that of the backend.

        Raises:
            CallFailed: the function failed.
            Expired: no result arrived in time, for example because no callee serves the URI.
            CapacityExceeded: too many calls to the URI are queued.
            BrokerError: the URI is invalid, the arguments are larger than 16 MiB, or all connections are in use.
            BrokerUnavailable: Redis is unreachable; with `OutcomeUnknown`, the function may have run.
            ConfigError: Redis refuses the credentials.
            InvalidValue: JSON cannot represent ``args`` or ``by``.
        """
        call = self._operations.new_call(uri, encode_args(args), timeout, by)
        pending = Pending(self._pool.run, self._operations, call)
        try:
            self._pool.run(self._operations.start(call))
            return pending.result()
        except BaseException:
            # No effect if there is a result. Ctrl-C, a timeout of gevent or a lost connection leave the call behind.
            with suppress(JugglerError):
                pending.cancel()
            raise

    def start_call(self, uri: str, args: Any = None, timeout: float | None = None, *, by: Any = None) -> Pending:
        """Start a call without waiting for its result. Arguments and errors are those of `call`."""
        return self._start_call(uri, encode_args(args), timeout, by)

    def start_call_json(self, uri: str, args: bytes, timeout: float | None = None, *, by: Any = None) -> Pending:
        """Like `start_call`, but ``args`` is JSON text in UTF-8, which is sent unchanged."""
        return self._start_call(uri, checked(args), timeout, by)

    def _start_call(self, uri: str, args: bytes, timeout: float | None, by: Any) -> Pending:
        call = self._operations.new_call(uri, args, timeout, by)
        self._pool.run(self._operations.start(call))
        return Pending(self._pool.run, self._operations, call)

    def stream(
        self,
        uri: str,
        args: Any = None,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
        by: Any = None,
    ) -> Stream:
        """Call a function, and return its result in parts, as they arrive.

        ::

            with backend.stream("shop.describe", "tea") as stream:
                for part in stream:
                    print(part)
                print(stream.result())

        Args:
            uri: URI of the function.
            args: any value that JSON can represent.
            timeout: seconds to wait for each part and the result. ``None``: the backend's ``call_timeout``.
            window: parts that the callee may send before some have been read, 1 to 1024: a slow reader slows the
                function down. Default: 64.
            mode: ``"all"`` parts, or the ``"latest"``: the function never waits, and parts that could not be sent in
                time are dropped.
            by: as for `call`.

        Raises:
            ValueError: an argument is out of range.
        """
        return self._stream(uri, encode_args(args), timeout, window, mode, by)

    def stream_json(
        self,
        uri: str,
        args: bytes,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
        by: Any = None,
    ) -> Stream:
        """Like `stream`, but ``args`` is JSON text in UTF-8, which is sent unchanged."""
        return self._stream(uri, checked(args), timeout, window, mode, by)

    def _stream(
        self, uri: str, args: bytes, timeout: float | None, window: int, mode: Literal["all", "latest"], by: Any
    ) -> Stream:
        call = self._operations.new_call(uri, args, timeout, by, stored_parts(mode, window))
        self._pool.run(self._operations.start(call))
        return Stream(self._pool.run, self._operations, self._keeper, call)

    def disconnect(
        self,
        *,
        identity: Any = None,
        connection: str | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "",
        timeout: float = TIMEOUT,
    ) -> CommandOutcome:
        """Close connections of all servers; see docs/server.md.

        Args:
            identity: caller identity of the connections, any JSON value but null.
            connection: or the identifier of one.
            code: close code, 4000 to 4999. `CloseCode.DISCONNECTED` asks clients not to come back, `CloseCode.MOVED` to
                reconnect.
            reason: text for people, at most 123 bytes.
            timeout: seconds to wait for the answers of servers, at most 60.

        Returns:
            How many servers were asked and have answered, and how many connections they have closed.

        Raises:
            InvalidValue: an argument is invalid, or not exactly one of ``identity`` and ``connection`` is given.
            BrokerUnavailable: Redis is unreachable. Some servers may have received the command.
        """
        return self.command(
            disconnect_command(identity=identity, connection=connection, code=code, reason=reason), timeout
        )

    def unsubscribe(
        self,
        *,
        channel: str | None = None,
        pattern: str | None = None,
        identity: Any = None,
        connection: str | None = None,
        reason: str = UNSUBSCRIBED,
        timeout: float = TIMEOUT,
    ) -> CommandOutcome:
        """End subscriptions of connections, which receive ENDS under juggler.1.

        Args:
            channel: the channel.
            pattern: or the pattern, as clients have subscribed to it.
            identity: end the subscriptions of all connections with this caller identity.
            connection: or of the one with this identifier.
            reason: message of the ENDS, at most 123 bytes.
            timeout: as for `disconnect`, whose errors and result this has, too.
        """
        command = unsubscribe_command(
            channel=channel, pattern=pattern, identity=identity, connection=connection, reason=reason
        )
        return self.command(command, timeout)

    def connections(
        self,
        *,
        identity: Any = None,
        connection: str | None = None,
        limit: int = LISTED,
        timeout: float = TIMEOUT,
    ) -> CommandOutcome:
        """List connections of all servers: ``connections`` of the result is their number, ``listed`` has the oldest.

        Args:
            identity: only those with this caller identity.
            connection: or only the one with this identifier.
            limit: maximum number to list, at most 1,000.
            timeout: as for `disconnect`, whose errors this has, too.
        """
        return self.command(connections_command(identity=identity, connection=connection, limit=limit), timeout)

    def command(self, command: ServerCommand, timeout: float = TIMEOUT) -> CommandOutcome:
        """Send a command that `juggler.protocol.server_commands` has made; see `disconnect`."""
        return self._pool.run(self._servers.command(command, timeout))

    def servers(self) -> list[ServerStatus]:
        """Return the server processes that live, and what they report of themselves.

        Raises:
            BrokerUnavailable: Redis is unreachable.
        """
        return self._pool.run(self._servers.statuses())


class Pending:
    """A call in flight. Several threads or greenlets may wait for it; nothing happens in between.

    Attributes:
        uri: URI of the function.
        uuid: identifier of the call, as in the logs of callees.
    """

    def __init__(self, run: Run, operations: Operations, call: BackendCall) -> None:
        """Created by `Backend.start_call`."""
        self._pid = os.getpid()
        self._run = run
        self._operations = operations
        self._call = call
        self._turn = threading.Lock()
        self.uri = call.uri
        self.uuid = call.call_id

    def cancel(self, wait: bool = False) -> None:
        """Cancel the call. If there is a result already, do nothing. Does not wait for the function.

        Args:
            wait: `result` waits for how the function ends: in most cases with `CallFailed` of type "Cancelled" and code
                499. Otherwise `result` raises `Cancelled` at once. The function may still run, for example if Redis is
                unreachable.
        """
        check_process(self._pid)
        self._run(self._operations.cancel(self._call, wait))

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. Errors are those of `Backend.call`.

        Args:
            timeout: seconds to wait for now. ``None``: until the call's own timeout.

        Raises:
            TimeoutError: there is no result yet. You may call `result` again.
        """
        return result_value(self.response(timeout))

    def result_json(self, timeout: float | None = None) -> bytes:
        """Like `result`, but return the callee's JSON text, even if it is an error."""
        return self.response(timeout).args

    def response(self, timeout: float | None = None) -> Res:
        """Like `result`, but return the RES message, whether the function failed or not."""
        check_process(self._pid)
        call = self._call
        until = None if timeout is None else time.monotonic() + timeout
        # Another thread that waits settles the call for this one, too.
        if not self._turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise TimeoutError(f"no result of {call.uri} yet")
        try:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self._run(self._operations.wait(call, left)):
                raise TimeoutError(f"no result of {call.uri} yet")
        finally:
            self._turn.release()
        return call.outcome()
