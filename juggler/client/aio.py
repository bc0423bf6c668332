"""A client for asyncio. The names, rules and errors are those of `juggler.client.Client`; what waits is awaited."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebsocketClosed

from juggler.client.events import Event, EventQueue, WhenFull
from juggler.client.listeners import Listeners, OnMessage, OnRaw, OnState
from juggler.client.opening import SUBPROTOCOL, Headers, as_error, check_subprotocol, short, upgrade_headers
from juggler.client.reconnect import RENEWAL_PAUSE, Reconnect, State, after_attempt, end_of, may_come_back
from juggler.client.state import ClientState, Outcome, Sink, result_value
from juggler.errors import CloseCode, ConnectionClosed, Expired, InvalidMessage, JugglerError
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import MAX_TIMEOUT, check_args, encode, encode_args
from juggler.protocol.messages import Call, Evnt, Pub, Request, Res, Sub, Unsb

if TYPE_CHECKING:
    from typing_extensions import Self


_log = logging.getLogger("juggler.client")


class AsyncClient:
    """A client of a juggler server, for the tasks of one event loop.

    ::

        async with AsyncClient("ws://127.0.0.1:9000/ws") as client:
            print(await client.call("greet", "world"))

    It connects with ``async with``, or `connect`. Arguments, reconnecting and errors are those of
    `juggler.client.Client`; the callbacks run in the event loop, and must not block.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        call_timeout: float = 60.0,
        headers: Headers | None = None,
        allowed_messages: str | None = None,
        max_size: int | None = 16 * 2**20,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        max_events: int = 1000,
        reconnect: bool = True,
        reconnect_timeout: float | None = None,
        ssl: ssl.SSLContext | None = None,
        on_message: OnMessage | None = None,
        on_state: OnState | None = None,
        on_raw: OnRaw | None = None,
    ) -> None:
        """Make a client that is not connected yet; see `juggler.client.Client`."""
        self._url = url
        self._timeout = timeout
        self._call_timeout = call_timeout
        self._headers = headers
        self._allowed_messages = allowed_messages
        self._max_events = max_events
        self._reconnect = reconnect
        self._reconnecting = Reconnect(reconnect_timeout)
        self._listeners = Listeners(on_message, on_state, on_raw)
        self._options: dict[str, Any] = {
            "open_timeout": timeout,
            "close_timeout": timeout,
            "max_size": max_size,
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "compression": None,
            "proxy": None,
        }
        if ssl is not None:
            self._options["ssl"] = ssl
        self._state = ClientState()
        self._overfull: list[AsyncSubscription] = []
        self._renewal: asyncio.Task[None] | None = None
        self._order = asyncio.Lock()
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._websocket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect, once.

        Raises:
            ConfigError: the URL is none.
            HandshakeRefused: the server answered with an HTTP error.
            ConnectionClosed: it cannot be reached, or does not speak juggler.
        """
        websocket = await self._open()
        if self._state.ended is not None:  # closed meanwhile
            await websocket.close()
            raise ConnectionClosed(self._state.ended.code, self._state.ended.reason)
        self._websocket = websocket
        self._reconnecting.on_connected(time.monotonic())
        self._reader = asyncio.create_task(self._run(), name="juggler-client-reader")
        self._listeners.tell_state(State.CONNECTED, None)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def closed(self) -> ConnectionClosed | None:
        """Why the client has ended, ``None`` while it has not."""
        return self._state.ended

    @property
    def connected(self) -> bool:
        """Whether requests can be made now."""
        return self._websocket is not None and self._state.ended is None and self._state.lost is None

    async def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until requests can be made, for at most ``timeout`` seconds. Return whether they can.

        Raises:
            ConnectionClosed: never more.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.connected:
            if self._state.ended is not None:
                raise ConnectionClosed(self._state.ended.code, self._state.ended.reason)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return True

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the client; all that wait get `ConnectionClosed`. Any number of times."""
        self._end(ConnectionClosed(code, reason or "closed by this client"))
        if self._websocket is not None:
            await self._websocket.close(code, short(reason))
        if self._reader is not None and self._reader is not asyncio.current_task():
            await asyncio.wait([self._reader], timeout=self._timeout)
            self._reader.cancel()

    async def call(self, uri: str, args: Any = None, timeout: float | None = None) -> Any:
        """Run the function at ``uri`` and return its result; see `juggler.client.Client.call`."""
        pending = await self.start_call(uri, args, timeout)
        try:
            return await pending.result()
        except asyncio.CancelledError:
            pending.cancel()
            raise

    async def start_call(self, uri: str, args: Any = None, timeout: float | None = None) -> AsyncPending:
        """Start a call and do not wait for its result. Arguments and errors as those of `call`."""
        return await self._start_call(uri, encode_args(args), timeout)

    async def start_call_json(self, uri: str, args: bytes, timeout: float | None = None) -> AsyncPending:
        """As `start_call`, with JSON text that travels as it is; see `juggler.client.Client.start_call_json`."""
        check_args(args)
        return await self._start_call(uri, args, timeout)

    async def _start_call(self, uri: str, args: bytes, timeout: float | None) -> AsyncPending:
        timeout = self._call_timeout if timeout is None else timeout
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout: expected more than 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout!r}")
        message = Call(uuid=new_uuid(), uri=uri, args=args, timeout=timeout)
        text = encode(message)
        pending = AsyncPending()
        self._state.call(message, time.monotonic() + timeout, pending)
        pending.on_cancel = partial(self._state.cancel, message.uuid)
        self._watch()
        await self._send(text)
        return pending

    async def publish(self, channel: str, args: Any = None) -> None:
        """Publish an event, and wait until it is acknowledged; see `juggler.client.Client.publish`."""
        await self._publish(channel, encode_args(args))

    async def publish_json(self, channel: str, args: bytes) -> None:
        """As `publish`, with JSON text that travels as it is; see `juggler.client.Client.publish_json`."""
        check_args(args)
        await self._publish(channel, args)

    async def _publish(self, channel: str, args: bytes) -> None:
        message = Pub(uuid=new_uuid(), channel=channel, args=args)
        text = encode(message)
        waiter = AsyncPending()
        self._state.publish(message, waiter)
        await self._send(text)
        await self._wait_for_ack(message, waiter)

    async def subscribe(
        self,
        channel: str,
        pattern: bool = False,
        *,
        max_events: int | None = None,
        when_full: WhenFull = "drop_oldest",
        on_gap: Callable[[], None] | None = None,
    ) -> AsyncSubscription:
        """Subscribe, and wait until it is acknowledged; see `juggler.client.Client.subscribe`."""
        message = Sub(uuid=new_uuid(), channel=channel, pattern=pattern)
        text = encode(message)
        waiter = AsyncPending()
        queue = EventQueue(self._max_events if max_events is None else max_events, when_full)
        subscription = AsyncSubscription(self._unsubscribe, self._overfull.append, channel, pattern, queue, on_gap)
        try:
            async with self._order:
                if self._state.subscribe(message, subscription, waiter):
                    await self._send(text)
            await self._wait_for_ack(message, waiter)
        except BaseException:
            with suppress(JugglerError):
                await subscription.close()
            raise
        return subscription

    async def unsubscribe(self, channel: str, pattern: bool = False) -> None:
        """End all subscriptions to a channel or pattern; see `juggler.client.Client.unsubscribe`."""
        await self._unsubscribe(channel, pattern, None)

    async def _unsubscribe(self, channel: str, pattern: bool, sink: Sink | None) -> None:
        message = Unsb(uuid=new_uuid(), channel=channel, pattern=pattern)
        text = encode(message)
        waiter = AsyncPending()
        async with self._order:
            if self._state.unsubscribe(message, sink, waiter):
                await self._send(text)
        await self._wait_for_ack(message, waiter)

    async def _wait_for_ack(self, message: Request, waiter: AsyncPending) -> None:
        try:
            await asyncio.wait_for(waiter.settled(), self._timeout)
        except asyncio.TimeoutError:
            raise Expired(f"no acknowledgement of {message.type.name} within {self._timeout:g} s") from None
        finally:
            self._state.forget(message.uuid)
        waiter.outcome()

    async def send_raw(self, message: str | bytes) -> None:
        """Send a text message, or a binary one, as it is; see `juggler.client.Client.send_raw`."""
        websocket = self._websocket
        if websocket is None:
            raise ConnectionClosed(CloseCode.ABNORMAL, "the client is not connected yet")
        self._listeners.tell_raw("out", message)
        try:
            await asyncio.wait_for(websocket.send(message), self._timeout)
        except WebsocketClosed as error:
            raise _reason_of(error) from error
        except asyncio.TimeoutError:
            websocket.transport.abort()
            raise ConnectionClosed(CloseCode.ABNORMAL, "a message could not be written in time") from None

    async def _send(self, text: bytes) -> None:
        await self.send_raw(text.decode())

    # The connection

    async def _open(self) -> ClientConnection:
        try:
            websocket = await connect(
                self._url,
                subprotocols=[SUBPROTOCOL],
                additional_headers=upgrade_headers(self._headers, self._allowed_messages),
                **self._options,
            )
        except Exception as error:
            raise as_error(error, self._url) from error
        try:
            check_subprotocol(websocket.subprotocol, self._url)
        except ConnectionClosed as error:
            await websocket.close(error.code)
            raise
        return websocket

    async def _run(self) -> None:
        while True:
            ended = await self._read()
            if self._state.ended is None and self._reconnect and may_come_back(ended):
                self._state.lose(ended)
                self._notify()
                self._listeners.tell_state(State.DISCONNECTED, ended)
                failure = await self._connect_again(ended)
                if failure is None:
                    continue
                ended = failure
            self._end(ended)
            self._listeners.tell_state(State.CLOSED, self._state.ended)
            return

    async def _read(self) -> ConnectionClosed:
        """Process what the server sends, until the connection ends. Return why."""
        websocket = self._websocket
        assert websocket is not None
        try:
            while True:
                text = await websocket.recv()
                self._listeners.tell_raw("in", text)
                if isinstance(text, bytes):
                    raise InvalidMessage("expected a text message, got a binary one")
                message = self._state.receive(text)
                if self._overfull:
                    await self._leave_overfull()
                if self._state.unrenewed and (self._renewal is None or self._renewal.done()):
                    self._renewal = asyncio.create_task(self._renew_later(), name="juggler-client-renewal")
                self._listeners.tell(message)
        except WebsocketClosed as error:
            return _reason_of(error)
        except ConnectionClosed as error:
            return ConnectionClosed(error.code, error.reason)
        except InvalidMessage as error:
            ended = ConnectionClosed(error.close_code, f"the server sent an invalid message: {error}")
            await websocket.close(ended.code, short(ended.reason))
            return ended

    async def _renew_later(self) -> None:
        """Ask once more, in a moment, for subscriptions that could not be made anew for the time being."""
        await self._wait_for_end(RENEWAL_PAUSE)
        async with self._order:
            with suppress(ConnectionClosed):
                for message in self._state.renew_again():
                    await self._send(encode(message))

    async def _leave_overfull(self) -> None:
        while self._overfull:
            subscription = self._overfull.pop()
            message = Unsb(uuid=new_uuid(), channel=subscription.channel, pattern=subscription.pattern)
            async with self._order:
                if self._state.unsubscribe(message, subscription, AsyncPending()):
                    await self._send(encode(message))

    async def _connect_again(self, lost: ConnectionClosed) -> ConnectionClosed | None:
        """Connect, and make the subscriptions again; return why not, if not."""
        self._reconnecting.on_lost(time.monotonic())
        while True:
            await self._wait_for_end(self._reconnecting.next_pause())
            if self._state.ended is not None:
                return self._state.ended
            if self._reconnecting.is_over(time.monotonic()):
                return lost
            try:
                websocket = await self._open()
            except JugglerError as error:
                lost = after_attempt(error, lost)
                if may_come_back(error):
                    continue
                return lost
            except Exception as error:
                _log.exception("cannot connect to the server again for now")
                lost = after_attempt(error, lost)
                continue
            if await self._resume(websocket):
                return None

    async def _wait_for_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._state.ended is None and (left := deadline - time.monotonic()) > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _resume(self, websocket: ClientConnection) -> bool:
        async with self._order:
            if self._state.ended is not None:
                await websocket.close()
                return False
            self._websocket = websocket
            self._reconnecting.on_connected(time.monotonic())
            try:
                for message in self._state.resume():
                    await self._send(encode(message))
            except ConnectionClosed as error:
                self._state.lose(ConnectionClosed(error.code, error.reason))
                return False
        self._notify()
        self._listeners.tell_state(State.CONNECTED, None)
        return True

    def _end(self, error: ConnectionClosed) -> None:
        self._state.end(error)
        if self._expiry is not None:
            self._expiry.cancel()
        self._notify()

    def _notify(self) -> None:
        """Wake all who wait for a change; later ones wait for the next."""
        self._changed.set()
        self._changed = asyncio.Event()

    # Telling

    def _watch(self) -> None:
        """See that the next call to expire does."""
        deadline = self._state.next_deadline()
        if self._expiry is not None:
            self._expiry.cancel()
        if deadline is not None and self._state.ended is None:
            delay = max(0.0, deadline - time.monotonic())
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        for exp in self._state.expire(time.monotonic()):
            self._listeners.tell(exp)
        self._watch()


class AsyncPending:
    """A request under way. Several tasks may wait for it."""

    on_cancel: Callable[[], None] | None = None

    def __init__(self) -> None:
        self._settled = asyncio.Event()
        self._outcome: Outcome = None
        self._callbacks: list[Callable[[AsyncPending], None]] = []

    def settle(self, outcome: Outcome) -> None:
        """Called by the client."""
        self._outcome = outcome
        self._settled.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            # Not here, where the client is in the middle of something.
            asyncio.get_running_loop().call_soon(callback, self)

    def on_done(self, callback: Callable[[AsyncPending], None]) -> None:
        """Call ``callback`` with this object, from the event loop, when `result` does not wait."""
        if self.done:
            asyncio.get_running_loop().call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    def cancel(self) -> None:
        """Wait no more: `result` raises `Cancelled`, unless it is there already. The function may run all the same."""
        if self.on_cancel is not None:
            self.on_cancel()

    @property
    def done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Wait until it is."""
        await self._settled.wait()

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it. Arguments and errors as those of `juggler.client.Pending.result`."""
        return result_value(await self.response(timeout))

    async def result_json(self, timeout: float | None = None) -> bytes:
        """As `result`, but return the JSON text that the callee wrote, an error included."""
        return (await self.response(timeout)).args

    async def response(self, timeout: float | None = None) -> Res:
        """As `result`, but return the message, whether the function failed or not."""
        try:
            await asyncio.wait_for(self._settled.wait(), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError("no result yet") from None
        response = self.outcome()
        assert response is not None
        return response

    def outcome(self) -> Res | None:
        """Return what became of it, or raise it."""
        if isinstance(self._outcome, JugglerError):
            raise self._outcome
        return self._outcome


class AsyncSubscription:
    """The events of a channel or pattern: an asynchronous iterator, and a context manager that unsubscribes.

    Attributes:
        channel: what was subscribed to.
        pattern: whether it is a glob.
    """

    def __init__(
        self,
        unsubscribe: Callable[[str, bool, Sink], Any],
        on_overfull: Callable[[AsyncSubscription], None],
        channel: str,
        pattern: bool,
        queue: EventQueue,
        on_gap: Callable[[], None] | None,
    ) -> None:
        self._unsubscribe = unsubscribe
        self._on_overfull = on_overfull
        self._queue = queue
        self._on_gap = on_gap
        self._changed = asyncio.Event()
        self.channel = channel
        self.pattern = pattern

    @property
    def dropped(self) -> int:
        """Number of events dropped so far, because nobody read them in time."""
        return self._queue.dropped

    @property
    def gaps(self) -> int:
        """How often events may have been missed, as the connection was lost and made again."""
        return self._queue.gaps

    async def get(self, timeout: float | None = None) -> Event:
        """Wait for the next event. Arguments and errors as those of `juggler.client.Subscription.get`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            event = self._queue.get()
            if event is not None:
                return event
            self._changed.clear()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except asyncio.TimeoutError:
                raise TimeoutError(f"no event of {self.channel} within {timeout:g} s") from None

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
        """Unsubscribe, and wait until it is acknowledged. Idempotent, and no error when the connection has ended."""
        with suppress(ConnectionClosed):
            await self._unsubscribe(self.channel, self.pattern, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def on_event(self, event: Evnt) -> None:
        """Called by the client."""
        if not self._queue.put(event):
            self._on_overfull(self)
        self._changed.set()

    def on_gap(self) -> None:
        """Called by the client."""
        self._queue.gaps += 1
        if self._on_gap is not None:
            try:
                self._on_gap()
            except Exception:
                _log.exception("on_gap failed for %s", self.channel)

    def on_end(self, error: JugglerError) -> None:
        """Called by the client."""
        self._queue.end(error)
        self._changed.set()


def _reason_of(error: WebsocketClosed) -> ConnectionClosed:
    return end_of(error.rcvd, error.sent, error.__cause__)
