"""`AsyncBackend`: the same as `juggler.backend.Backend`, for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from juggler.backend.async_pool import AsyncPool, AsyncRun, acquire
from juggler.backend.calls import BackendCall
from juggler.backend.limits import BaseBackend, check_process
from juggler.backend.operations import DEFAULT_WINDOW, KEEP, Operations, checked, encoded, stored_parts
from juggler.errors import CloseCode, JugglerError
from juggler.protocol.codec import encode_args
from juggler.protocol.messages import Res
from juggler.protocol.part_streams import AwaitedStream
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


class Cancel(Protocol):
    """Starts to cancel a call."""

    def __call__(self, call: BackendCall, wait: bool = False) -> None: ...


class AsyncBackend(BaseBackend):
    """Publishes events and calls functions through Redis, without a server in between. Tasks may share it.

    Arguments, results and errors are those of `juggler.backend.Backend`. It uses the event loop that runs; a cancelled
    task cancels its call. It belongs to one event loop at once: in another one, it opens new connections.
    """

    def _set_up(self) -> None:
        self._pool = AsyncPool(self._url, self._names.version, self._limits)
        self._cancels: set[asyncio.Task[None]] = set()

    def on_fork(self) -> None:
        """Start with new connections in a child process; see `juggler.process.fork_hooks`."""
        self._pool.begin_process()
        self._operations.begin_process()
        self._cancels = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, after cancels that are being sent. Idempotent."""
        if self._cancels:
            await asyncio.wait(self._cancels)
        self._operations.is_closed = True
        await self._pool.close()

    async def publish(self, channel: str, value: Any = None) -> int:
        """See `juggler.backend.Backend.publish`."""
        return await self._pool.run(self._operations.publish(channel, encode_args(value)))

    async def publish_json(self, channel: str, args: bytes) -> int:
        """See `juggler.backend.Backend.publish_json`."""
        return await self._pool.run(self._operations.publish(channel, checked(args)))

    async def publish_many(self, events: Iterable[tuple[str, Any]]) -> list[int]:
        """See `juggler.backend.Backend.publish_many`."""
        return await self._pool.run(self._operations.publish_many(encoded(events)))

    async def publish_many_json(self, events: Iterable[tuple[str, bytes]]) -> list[int]:
        """See `juggler.backend.Backend.publish_many_json`."""
        return await self._pool.run(self._operations.publish_many((channel, checked(args)) for channel, args in events))

    async def call(self, uri: str, args: Any = None, timeout: float | None = None, *, by: Any = None) -> Any:
        """See `juggler.backend.Backend.call`."""
        call = self._operations.new_call(uri, encode_args(args), timeout, by)
        pending = AsyncPending(self._pool.run, self._operations, self._cancel, call)
        try:
            await self._pool.run(self._operations.start(call))
            return await pending.result()
        except BaseException:
            pending.cancel()  # no effect if there is a result
            raise

    async def start_call(
        self, uri: str, args: Any = None, timeout: float | None = None, *, by: Any = None
    ) -> AsyncPending:
        """See `juggler.backend.Backend.start_call`."""
        return await self._start_call(uri, encode_args(args), timeout, by)

    async def start_call_json(
        self, uri: str, args: bytes, timeout: float | None = None, *, by: Any = None
    ) -> AsyncPending:
        """See `juggler.backend.Backend.start_call_json`."""
        return await self._start_call(uri, checked(args), timeout, by)

    async def _start_call(self, uri: str, args: bytes, timeout: float | None, by: Any) -> AsyncPending:
        call = self._operations.new_call(uri, args, timeout, by)
        await self._pool.run(self._operations.start(call))
        return AsyncPending(self._pool.run, self._operations, self._cancel, call)

    def stream(
        self,
        uri: str,
        args: Any = None,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
        by: Any = None,
    ) -> AsyncStream:
        """See `juggler.backend.Backend.stream`. The call starts when its first part is awaited.

        ::

            async with backend.stream("shop.describe", "tea") as stream:
                async for part in stream:
                    print(part)
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
    ) -> AsyncStream:
        """See `juggler.backend.Backend.stream_json`."""
        return self._stream(uri, checked(args), timeout, window, mode, by)

    def _stream(
        self, uri: str, args: bytes, timeout: float | None, window: int, mode: Literal["all", "latest"], by: Any
    ) -> AsyncStream:
        call = self._operations.new_call(uri, args, timeout, by, stored_parts(mode, window))
        return AsyncStream(self._pool.run, self._operations, self._cancel, call)

    def _cancel(self, call: BackendCall, wait: bool = False) -> None:
        """Start to cancel a call. `close` waits for it."""
        if not call.is_settled:
            task = asyncio.get_running_loop().create_task(self._send_cancel(call, wait))
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)

    async def _send_cancel(self, call: BackendCall, wait: bool) -> None:
        with suppress(JugglerError):
            await self._pool.run(self._operations.cancel(call, wait))

    async def disconnect(
        self,
        *,
        identity: Any = None,
        connection: str | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "",
        timeout: float = TIMEOUT,
    ) -> CommandOutcome:
        """See `juggler.backend.Backend.disconnect`."""
        return await self.command(
            disconnect_command(identity=identity, connection=connection, code=code, reason=reason), timeout
        )

    async def unsubscribe(
        self,
        *,
        channel: str | None = None,
        pattern: str | None = None,
        identity: Any = None,
        connection: str | None = None,
        reason: str = UNSUBSCRIBED,
        timeout: float = TIMEOUT,
    ) -> CommandOutcome:
        """See `juggler.backend.Backend.unsubscribe`."""
        command = unsubscribe_command(
            channel=channel, pattern=pattern, identity=identity, connection=connection, reason=reason
        )
        return await self.command(command, timeout)

    async def connections(
        self,
        *,
        identity: Any = None,
        connection: str | None = None,
        limit: int = LISTED,
        timeout: float = TIMEOUT,
    ) -> CommandOutcome:
        """See `juggler.backend.Backend.connections`."""
        return await self.command(connections_command(identity=identity, connection=connection, limit=limit), timeout)

    async def command(self, command: ServerCommand, timeout: float = TIMEOUT) -> CommandOutcome:
        """See `juggler.backend.Backend.command`."""
        return await self._pool.run(self._servers.command(command, timeout))

    async def servers(self) -> list[ServerStatus]:
        """See `juggler.backend.Backend.servers`."""
        return await self._pool.run(self._servers.statuses())


class AsyncPending:
    """A call in flight. Several tasks may wait for it; see `juggler.backend.backend.Pending`.

    Attributes:
        uri: URI of the function.
        uuid: identifier of the call, as in the logs of callees.
    """

    def __init__(self, run: AsyncRun, operations: Operations, cancel: Cancel, call: BackendCall) -> None:
        """Created by `AsyncBackend.start_call`."""
        self._pid = os.getpid()
        self._run = run
        self._operations = operations
        self._cancel = cancel
        self._call = call
        self._turn = asyncio.Lock()
        self.uri = call.uri
        self.uuid = call.call_id

    def cancel(self, wait: bool = False) -> None:
        """Cancel the call, in the background; see `juggler.backend.backend.Pending.cancel`."""
        check_process(self._pid)
        self._cancel(self._call, wait)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. Arguments and errors are those of `juggler.backend.backend.Pending`."""
        return result_value(await self.response(timeout))

    async def result_json(self, timeout: float | None = None) -> bytes:
        """Like `result`, but return the callee's JSON text, even if it is an error."""
        return (await self.response(timeout)).args

    async def response(self, timeout: float | None = None) -> Res:
        """Like `result`, but return the RES message, whether the function failed or not."""
        check_process(self._pid)
        call = self._call
        until = None if timeout is None else time.monotonic() + timeout
        # Another task that waits settles the call for this one, too.
        if not await acquire(self._turn, timeout):
            raise TimeoutError(f"no result of {call.uri} yet")
        try:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not await self._run(self._operations.wait(call, left)):
                raise TimeoutError(f"no result of {call.uri} yet")
        finally:
            self._turn.release()
        return call.outcome()


class AsyncStream(AwaitedStream):
    """A call whose result arrives in parts; see `juggler.backend.backend.Stream`. A cancelled task cancels the call."""

    def __init__(self, run: AsyncRun, operations: Operations, cancel: Cancel, call: BackendCall) -> None:
        """Created by `AsyncBackend.stream`."""
        super().__init__(call.uri, call.call_id)
        self._pid = os.getpid()
        self._run = run
        self._operations = operations
        self._cancel = cancel
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._keeper: asyncio.Task[None] | None = None

    async def next_json(self) -> bytes | None:
        text = await self._next()
        if text is None:
            result_value(self._call.outcome())
        return text

    async def _next(self) -> bytes | None:
        check_process(self._pid)
        try:
            text = await self._run(self._operations.next_part(self._call))
        except asyncio.CancelledError:
            self.close()
            raise
        if self._keeper is None and not self._call.is_settled:
            self._keeper = self._loop.create_task(_keep(self._run, self._operations, self._call))
        elif self._call.is_settled:
            self._leave()
        return text

    def _leave(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()

    async def response(self) -> Res:
        while await self._next() is not None:
            pass
        return self._call.outcome()

    def close(self) -> None:
        """Cancel the call, unless it has completed, in the background. Idempotent."""
        check_process(self._pid)
        self._leave()
        self._cancel(self._call)

    def __del__(self) -> None:
        if not self._call.is_settled and os.getpid() == self._pid and not self._operations.is_closed:
            with suppress(RuntimeError):  # the loop has closed
                if self._keeper is not None:
                    self._loop.call_soon_threadsafe(self._keeper.cancel)
                self._loop.call_soon_threadsafe(self._cancel, self._call)


async def _keep(run: AsyncRun, operations: Operations, call: BackendCall) -> None:
    """Keep a stream alive whose reader is busy."""
    while not (call.is_settled or operations.is_closed):
        await asyncio.sleep(KEEP)
        with suppress(JugglerError):
            await run(operations.keep(call))
