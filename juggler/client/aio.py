"""A client for asyncio. Names, behaviour and errors are those of `juggler.client.Client`; what waits is awaited."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebsocketClosed

from juggler.client.base import BaseClient, run_callback
from juggler.client.bookkeeping import Callback, PendingRequest
from juggler.client.events import Event, EventQueue, WhenFull
from juggler.client.forks import check_process
from juggler.client.opening import OFFERED, as_error, expects_welcome, short
from juggler.client.parts_queue import DEFAULT_WINDOW, PartsQueue
from juggler.client.reconnect import end_of
from juggler.client.state import RENEWAL_PAUSE
from juggler.errors import CallFailed, CloseCode, ConnectionClosed, InvalidMessage, JugglerError
from juggler.protocol.codec import check_args, encode_args
from juggler.protocol.messages import Evnt, Parts, Res
from juggler.protocol.part_streams import AwaitedStream
from juggler.protocol.results import result_value

if TYPE_CHECKING:
    from typing_extensions import Self

_STOPS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""Exceptions that stop a task, or all: every other is one of a function of the user's."""

_Write: TypeAlias = "asyncio.Task[ConnectionClosed | None]"
"""A message that is being written, and why that failed."""


class AsyncClient(BaseClient):
    """A client of a juggler server, for the tasks of one event loop.

    ::

        async with AsyncClient("ws://127.0.0.1:9000/ws") as client:
            print(await client.call("greet", "world"))

    ``async with`` or `connect` connects. Arguments, reconnecting and errors are those of `juggler.client.Client`. The
    function ``token`` may be asynchronous, and then has ``timeout`` seconds. Callbacks run in the event loop, and must
    not block.
    """

    def _set_up(self) -> None:
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._websocket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._heard = 0.0  # when the last message or pong arrived

    def on_fork(self) -> None:
        if self._websocket is None:
            return  # not connected yet: any process may do so
        super().on_fork()
        # Closing them here would affect the parent, which shares the selector of the event loop.
        self._websocket = self._reader = self._expiry = self._renewal = self._renewer = None

    async def connect(self) -> None:
        """Connect: once, or with ``retry_first`` until it succeeds.

        Raises:
            ConfigError: the URL is invalid.
            HandshakeRefused: the server answered with an HTTP error.
            ConnectionClosed: the server is unreachable, or does not speak juggler.
        """
        while True:
            try:
                await self._use(*await self._connect())
                break
            except Exception as error:
                if not self._retry_first:
                    raise
                self._log_bug(error)
                if not await self._may_reconnect(error):
                    raise
        self._reader = asyncio.create_task(self._run(), name="juggler-client-reader")

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds until requests can be made. Return whether they can.

        Raises:
            ConnectionClosed: the client has closed.
        """
        await self._wait_until(lambda: self.connected or self.closed, timeout)
        self._state.check_open()
        return self.connected

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the client. All requests in flight fail with `ConnectionClosed`. Idempotent.

        Waits at most ``timeout`` seconds for the server's close frame. If it is cancelled, the connection is aborted.
        """
        self._state.close(ConnectionClosed(code, reason or "closed by this client"))
        self._on_change()
        reader = None if self._reader is asyncio.current_task() else self._reader
        if self._renewer is not None and self._renewer is not asyncio.current_task():
            self._renewer.cancel()
        try:
            if self._websocket is not None:
                await self._websocket.close(code, short(reason))
            if reader is not None:
                await asyncio.wait([reader], timeout=self._timeout)
        except asyncio.CancelledError:
            if self._websocket is not None:
                self._websocket.transport.abort()
            raise
        finally:
            if reader is not None:
                reader.cancel()

    async def call(self, uri: str, args: Any = None, timeout: float | None = None) -> Any:
        """Call the function at ``uri`` and return its result; see `juggler.client.Client.call`."""
        pending = await self.start_call(uri, args, timeout)
        try:
            return await pending.result()
        except asyncio.CancelledError:
            pending.cancel()
            raise

    async def start_call(self, uri: str, args: Any = None, timeout: float | None = None) -> AsyncPending:
        """Start a call without waiting for its result. Arguments and errors are those of `call`."""
        return await self._start_call(uri, encode_args(args), timeout)

    async def start_call_json(self, uri: str, args: bytes, timeout: float | None = None) -> AsyncPending:
        """Like `start_call`, but ``args`` is JSON text; see `juggler.client.Client.start_call_json`."""
        check_args(args)
        return await self._start_call(uri, args, timeout)

    async def _start_call(self, uri: str, args: bytes, timeout: float | None) -> AsyncPending:
        pending = AsyncPending(self._cancel, self._state.callbacks)
        text = self._state.call(pending, uri, args, timeout, time.monotonic())
        self._watch()
        try:
            await _written(self._write(text.decode()))
        except asyncio.CancelledError:
            pending.cancel()
            raise
        return pending

    def stream(
        self,
        uri: str,
        args: Any = None,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
    ) -> AsyncStream:
        """Call a function, and return its result in parts; see `juggler.client.Client.stream`.

        ::

            async with client.stream("shop.describe", "tea") as stream:
                async for part in stream:
                    print(part)
        """
        return self._stream(uri, encode_args(args), timeout, window, mode)

    def stream_json(
        self,
        uri: str,
        args: bytes,
        timeout: float | None = None,
        *,
        window: int = DEFAULT_WINDOW,
        mode: Literal["all", "latest"] = "all",
    ) -> AsyncStream:
        """Like `stream`, but ``args`` is JSON text; see `juggler.client.Client.stream_json`."""
        check_args(args)
        return self._stream(uri, args, timeout, window, mode)

    def _stream(
        self, uri: str, args: bytes, timeout: float | None, window: int, mode: Literal["all", "latest"]
    ) -> AsyncStream:
        arrived = asyncio.Event()
        queue = PartsQueue(self._state.callbacks, arrived.set, Parts(mode, window), self._state.timeout_of(timeout))
        text = self._state.call(queue, uri, args, timeout, time.monotonic(), queue.parts)
        self._watch()
        self._write_all([text])
        return AsyncStream(queue, arrived, self._cancel, self._renew_credit)

    async def publish(self, channel: str, args: Any = None) -> None:
        """Publish an event, and wait for the server's ACK; see `juggler.client.Client.publish`."""
        await self._publish(channel, encode_args(args))

    async def publish_json(self, channel: str, args: bytes) -> None:
        """Like `publish`, but ``args`` is JSON text; see `juggler.client.Client.publish_json`."""
        check_args(args)
        await self._publish(channel, args)

    async def _publish(self, channel: str, args: bytes) -> None:
        waiter = _Waiter(self._state.callbacks)
        await self._request(waiter, lambda: [self._state.publish(waiter, channel, args)])

    async def subscribe(
        self,
        channel: str,
        pattern: bool = False,
        *,
        max_events: int | None = None,
        when_full: WhenFull = "drop_oldest",
        on_gap: Callable[[], None] | None = None,
    ) -> AsyncSubscription:
        """Subscribe, and wait for the server's ACK; see `juggler.client.Client.subscribe`."""
        max_events = self._max_events if max_events is None else max_events
        subscription = AsyncSubscription(self._unsubscribe, channel, pattern, max_events, when_full, on_gap)
        waiter = _Waiter(self._state.callbacks)
        try:
            await self._request(waiter, lambda: self._state.subscribe(waiter, subscription))
        except BaseException:
            # Without waiting for the ACK: a cancelled task must end at once.
            unheard = _Waiter(self._state.callbacks)
            with suppress(JugglerError):
                self._write_all(self._state.unsubscribe(unheard, channel, pattern, subscription))
            raise
        return subscription

    async def unsubscribe(self, channel: str, pattern: bool = False) -> None:
        """End all subscriptions to a channel or pattern; see `juggler.client.Client.unsubscribe`."""
        await self._unsubscribe(channel, pattern, None)

    async def _unsubscribe(self, channel: str, pattern: bool, subscription: AsyncSubscription | None) -> None:
        waiter = _Waiter(self._state.callbacks)
        await self._request(waiter, lambda: self._state.unsubscribe(waiter, channel, pattern, subscription))

    async def _request(self, waiter: _Waiter, change: Callable[[], list[bytes]]) -> None:
        """Change the state, send what it returns, and wait for the ACK."""
        try:
            await self._send(change())
            if not await waiter.wait(self._timeout):
                raise waiter.unacknowledged(self._timeout)
        finally:
            self._state.forget(waiter)
        waiter.outcome()

    async def send_raw(self, message: str | bytes) -> None:
        """Send a text message or a binary message unchanged; see `juggler.client.Client.send_raw`."""
        await _written(self._write(message))

    async def _send(self, texts: list[bytes]) -> None:
        for write in self._write_all(texts):
            await _written(write)

    def _write_all(self, texts: list[bytes]) -> list[_Write]:
        return [self._write(text.decode()) for text in texts]

    def _write(self, message: str | bytes) -> _Write:
        """Start to write a message. It is written after those before, even if the caller is cancelled."""
        websocket = self._websocket
        if websocket is None:
            self._state.check_open()
            raise ConnectionClosed(CloseCode.ABNORMAL, "the client is not connected yet")
        self._listeners.raw("out", message)
        return asyncio.create_task(_write(websocket, message, self._timeout))

    # Connections

    async def _connect(self) -> tuple[ClientConnection, str | None]:
        """Return a new connection, and the first message of a server that speaks juggler.1."""
        options: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        headers = self._upgrade_headers(await self._ask_token())
        try:
            websocket = await connect(
                self._url,
                subprotocols=OFFERED,
                additional_headers=headers,
                open_timeout=self._timeout,
                close_timeout=self._timeout,
                max_size=self._max_size,
                ping_interval=None,  # that of websockets adds the close timeout to the time until a loss is noticed
                compression=None,
                proxy=None,
                **options,
            )
        except Exception as error:
            raise as_error(error, self._url) from error
        try:
            has_welcome = expects_welcome(websocket.subprotocol, self._url)
        except ConnectionClosed as error:
            await websocket.close(error.code)
            raise
        return websocket, await self._first_message(websocket) if has_welcome else None

    async def _ask_token(self) -> Any:
        try:
            token = self._token() if callable(self._token) else self._token
        except asyncio.CancelledError:
            raise _no_token("because its function was cancelled") from None
        if not inspect.isawaitable(token):
            return token
        # In a task of its own: if the function is cancelled inside, the task of the client is not.
        asking = asyncio.ensure_future(token)
        try:
            await asyncio.wait([asking], timeout=self._timeout)
            if not asking.done():
                raise _no_token(f"within {self._timeout:g} s")
            if asking.cancelled():
                raise _no_token("because its function was cancelled")
            return asking.result()
        finally:
            asking.cancel()

    async def _first_message(self, websocket: ClientConnection) -> str:
        try:
            message = await asyncio.wait_for(websocket.recv(), self._timeout)
        except WebsocketClosed as error:
            raise _reason_of(error) from None
        except asyncio.TimeoutError:
            websocket.transport.abort()
            raise as_error(TimeoutError("timed out"), self._url) from None
        except BaseException:
            websocket.transport.abort()
            raise
        if isinstance(message, bytes):
            await websocket.close(CloseCode.UNSUPPORTED_DATA)
            raise ConnectionClosed(CloseCode.UNSUPPORTED_DATA, "expected a text message, got a binary one")
        return message

    async def _use(self, websocket: ClientConnection, first_message: str | None) -> None:
        """Make a new connection the client's own, and re-establish subscriptions.

        Raises:
            ConnectionClosed: the connection was lost at once, or the client has closed.
        """
        if self.closed is not None:
            await websocket.close()
            self._state.check_open()
        try:
            welcome = self._read_welcome(first_message)
        except ConnectionClosed as error:
            await websocket.close(error.code)
            raise
        self._websocket = websocket
        await self._send(self._state.on_connected(time.monotonic(), welcome))
        self._on_change()
        self._listeners.state(*self._state.status())
        if welcome is not None:
            self._listeners.message(welcome)
            if welcome.ttl is not None and callable(self._token) and self._renewer is None:
                self._renewer = asyncio.create_task(self._renew_tokens(), name="juggler-client-token")

    async def _run(self) -> None:
        """Read, and reconnect, until the client has closed."""
        failure: BaseException = await self._read()
        while await self._may_reconnect(failure):
            try:
                await self._use(*await self._connect())
            except _STOPS:
                raise
            except BaseException as error:
                self._log_bug(error)
                failure = error
            else:
                failure = await self._read()

    async def _read(self) -> ConnectionClosed:
        """Process messages until the connection closes. Return the reason."""
        websocket = self._websocket
        assert websocket is not None
        self._heard = time.monotonic()
        keepalive = asyncio.create_task(self._keep_alive(websocket), name="juggler-client-keepalive")
        try:
            while True:
                text = await websocket.recv()
                self._heard = time.monotonic()
                self._listeners.raw("in", text)
                if isinstance(text, bytes):
                    raise InvalidMessage("expected a text message, got a binary one")
                message = self._state.receive(text, self._heard)
                if self._state.has_overfull:
                    await self._send(self._state.drop_overfull())
                if self._state.begin_renewal():
                    self._renewal = asyncio.create_task(self._renew_later(), name="juggler-client-renewal")
                self._run_callbacks()
                self._listeners.message(message)
        except WebsocketClosed as error:
            return (keepalive.result() if keepalive.done() else None) or _reason_of(error)
        except ConnectionClosed as error:
            return ConnectionClosed(error.code, error.reason)
        except InvalidMessage as error:
            ended = ConnectionClosed(error.close_code, f"the server sent an invalid message: {error}")
            await websocket.close(ended.code, short(ended.reason))
            return ended
        finally:
            keepalive.cancel()

    async def _keep_alive(self, websocket: ClientConnection) -> ConnectionClosed | None:
        """Ping the server after each silence. If it does not answer, abort the connection, and return the reason."""
        interval = self._ping_interval
        while interval is not None:
            silence = time.monotonic() - self._heard
            if silence < interval:
                await asyncio.sleep(interval - silence)
                continue
            pinged = time.monotonic()
            try:
                pong = asyncio.ensure_future(await websocket.ping())
            except WebsocketClosed:
                return None
            await asyncio.wait([pong], timeout=self._ping_timeout)
            if pong.done():
                self._heard = time.monotonic()
            elif self._heard < pinged:
                websocket.transport.abort()
                reason = f"the connection was lost: no answer to a ping for {self._ping_timeout:g} s"
                return ConnectionClosed(CloseCode.ABNORMAL, reason)
        return None

    async def _may_reconnect(self, failure: BaseException) -> bool:
        """Report a failure to the state, and wait before the next attempt. Return False if the client has closed."""
        pause = self._state.on_failure(failure, time.monotonic())
        self._on_change()
        self._listeners.state(*self._state.status())
        if pause is not None:
            await self._wait_until(lambda: self.closed, pause)
        may_connect = self._state.may_connect(time.monotonic())
        self._on_change()
        self._listeners.state(*self._state.status())
        return may_connect

    async def _renew_later(self) -> None:
        await self._wait_until(lambda: self.closed, RENEWAL_PAUSE)
        with suppress(ConnectionClosed):
            await self._send(self._state.renew())

    async def _renew_tokens(self) -> None:
        """Renew the token in time, until the client has closed."""
        while self.closed is None:
            due = self._state.renewal.due
            pause = None if due is None else due - time.monotonic()
            if pause is None or pause > 0:
                await self._wait_until(partial(self._is_rescheduled, due), pause)
            else:
                await self._renew_token()

    def _is_rescheduled(self, due: float | None) -> bool:
        return self.closed is not None or self._state.renewal.due != due

    async def _renew_token(self) -> None:
        waiter = _Waiter(self._state.callbacks)
        try:
            token = await self._ask_token()
            await self._request(waiter, lambda: [self._state.authenticate(waiter, token)])
        except _STOPS:
            raise
        except BaseException as error:
            self._state.renewal.on_failure(time.monotonic())
            if self.connected:
                self._report_token(error)

    async def _wait_until(self, condition: Callable[[], object], timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not condition():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            await _wait(self._changed, left)

    def _on_change(self) -> None:
        """Wake all tasks in `_wait_until`, and stop the timer of a closed client."""
        self._changed.set()
        self._changed = asyncio.Event()
        if self.closed is not None and self._expiry is not None:
            self._expiry.cancel()
        self._run_callbacks()

    def _watch(self) -> None:
        """Start the timer for the call that expires next."""
        deadline = self._state.next_deadline()
        if self._expiry is not None:
            self._expiry.cancel()
        if deadline is not None and self.closed is None:
            delay = max(0.0, deadline - time.monotonic())
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        expired = self._state.expire(time.monotonic())
        self._run_callbacks()
        for exp in expired:
            self._listeners.message(exp)
        self._watch()

    def _cancel(self, pending: PendingRequest, wait: bool = False) -> None:
        texts = self._state.cancel(pending, wait)
        # Not at once: the user's code is not prepared for callbacks here.
        asyncio.get_running_loop().call_soon(self._run_callbacks)
        with suppress(ConnectionClosed):
            self._write_all(texts)

    def _renew_credit(self, queue: PartsQueue) -> None:
        until = queue.renew(time.monotonic())
        if until is not None:
            with suppress(ConnectionClosed):
                self._write_all([self._state.credit(queue, until)])


class _Waiter(PendingRequest):
    """A request for whose outcome a task waits."""

    def __init__(self, callbacks: deque[Callback]) -> None:
        settled = asyncio.get_running_loop().create_future()
        super().__init__(callbacks, lambda: settled.set_result(None))
        self._settled = settled

    async def wait(self, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds. Return whether the request is settled."""
        await asyncio.wait([self._settled], timeout=timeout)
        return self.is_settled


class AsyncPending(_Waiter):
    """A call in flight. Several tasks may wait for it."""

    def __init__(self, cancel: Callable[[AsyncPending, bool], None], callbacks: deque[Callback]) -> None:
        super().__init__(callbacks)
        self._pid = os.getpid()
        self._cancel = cancel

    def on_done(self, callback: Callable[[AsyncPending], None]) -> None:
        """Call ``callback`` with this object, from the event loop, when `result` does not wait."""
        if self.done:
            asyncio.get_running_loop().call_soon(run_callback, "on_done", self.uri, callback, self)
        else:
            self.on_settled.append(callback)

    def cancel(self, wait: bool = False) -> None:
        """Cancel the call; see `juggler.client.Pending.cancel`."""
        self._cancel(self, wait)

    @property
    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self.is_settled

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. Arguments and errors are those of `juggler.client.Pending.result`."""
        return result_value(await self.response(timeout))

    async def result_json(self, timeout: float | None = None) -> bytes:
        """Like `result`, but return the callee's JSON text, even if it is an error."""
        return (await self.response(timeout)).args

    async def response(self, timeout: float | None = None) -> Res:
        """Like `result`, but return the RES message, whether the function failed or not."""
        check_process(self._pid)
        if not await self.wait(timeout):
            raise TimeoutError(f"no result of {self.uri} yet")
        response = self.outcome()
        assert response is not None
        return response


class AsyncStream(AwaitedStream):
    """A call whose result arrives in parts; see `juggler.client.Stream`. A cancelled task cancels the call, too."""

    def __init__(
        self,
        queue: PartsQueue,
        arrived: asyncio.Event,
        cancel: Callable[[PartsQueue], None],
        renew: Callable[[PartsQueue], None],
    ) -> None:
        """Created by `AsyncClient.stream`."""
        super().__init__(queue.uri, queue.uuid)
        self._pid = os.getpid()
        self._queue = queue
        self._arrived = arrived
        self._cancel = cancel
        self._renew = renew
        self._loop = asyncio.get_running_loop()

    async def next_json(self) -> bytes | None:
        check_process(self._pid)
        queue = self._queue
        while not queue.is_readable:
            self._arrived.clear()
            try:
                await self._arrived.wait()
            except asyncio.CancelledError:
                self.close()
                raise
        text = queue.take()
        if text is None:
            response = queue.outcome()
            assert response is not None
            result_value(response)
        else:
            self._renew(queue)
        return text

    async def response(self) -> Res:
        while not self._queue.is_settled or self._queue.is_unread:
            try:
                await self.next_json()
            except CallFailed:
                break
        response = self._queue.outcome()
        assert response is not None
        return response

    def close(self) -> None:
        """Cancel the call, unless it has completed. Does not wait. Idempotent."""
        self._cancel(self._queue)

    def __del__(self) -> None:
        if not self._queue.is_settled and os.getpid() == self._pid:
            with suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._cancel, self._queue)


class AsyncSubscription(EventQueue):
    """The events of a channel or pattern: an asynchronous iterator, and a context manager that unsubscribes.

    Attributes are those of `juggler.client.Subscription`.
    """

    def __init__(
        self,
        unsubscribe: Callable[[str, bool, AsyncSubscription], Coroutine[Any, Any, None]],
        channel: str,
        pattern: bool,
        max_events: int,
        when_full: WhenFull,
        on_gap: Callable[[], None] | None,
    ) -> None:
        super().__init__(channel, pattern, max_events, when_full, on_gap)
        self._pid = os.getpid()
        self._unsubscribe = unsubscribe
        self._changed = asyncio.Event()

    async def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event. Arguments and errors are those of `juggler.client.Subscription.get`."""
        check_process(self._pid)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_readable:
            self._changed.clear()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not await _wait(self._changed, left):
                raise TimeoutError(f"no event of {self.channel} within {timeout:g} s")
        return self.take()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.get()
        except ConnectionClosed as error:
            if error.code == CloseCode.NORMAL:
                raise StopAsyncIteration from None
            raise

    async def close(self) -> None:
        """Unsubscribe, and wait for the server's ACK. Idempotent. If the connection has closed, do nothing."""
        with suppress(ConnectionClosed):
            await self._unsubscribe(self.channel, self.pattern, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def on_event(self, event: Evnt) -> bool:
        is_taken = super().on_event(event)
        self._changed.set()
        return is_taken

    def on_end(self, error: JugglerError) -> None:
        super().on_end(error)
        self._changed.set()


async def _wait(event: asyncio.Event, timeout: float | None) -> bool:
    """Wait at most ``timeout`` seconds for an event. Return whether it is set.

    Before Python 3.12, `asyncio.wait_for` ignores a cancellation that coincides with the event.
    """
    if timeout is None:
        return await event.wait()
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([waiting], timeout=timeout)
        return waiting.done()
    finally:
        waiting.cancel()


async def _write(websocket: ClientConnection, message: str | bytes, timeout: float) -> ConnectionClosed | None:
    """Write a message; if that takes longer than ``timeout``, abort the connection. Return why it failed."""
    loop = asyncio.get_running_loop()
    late = loop.call_later(timeout, websocket.transport.abort)
    failure = None
    try:
        await websocket.send(message)
    except WebsocketClosed as error:
        failure = _reason_of(error)
    finally:
        late.cancel()
    if loop.time() >= late.when():
        websocket.transport.abort()
        return ConnectionClosed(CloseCode.ABNORMAL, "a message could not be written in time")
    return failure


async def _written(write: _Write) -> None:
    failure = await asyncio.shield(write)
    if failure is not None:
        raise failure


def _no_token(why: str) -> ConnectionClosed:
    return ConnectionClosed(CloseCode.ABNORMAL, f"there was no token {why}")


def _reason_of(error: WebsocketClosed) -> ConnectionClosed:
    return end_of(error.rcvd, error.sent, error.__cause__)
