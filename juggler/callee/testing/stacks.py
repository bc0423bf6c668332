"""Complete stacks on loopback: server, callee and client, with a memory broker or with processes and a real Redis."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import IO, Any

from gevent import get_hub

from juggler.broker.memory import MemoryBroker
from juggler.broker.names import check_uris
from juggler.callee.thunk import Thunk
from juggler.callee.worker import Worker
from juggler.client import Client
from juggler.errors import ConfigError
from juggler.process.embedded import EmbeddedRedis
from juggler.server import Server
from juggler.server.websocket import WebSocketHandler
from juggler.wsgi import Application

START_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0


class Stack:
    """A server and its callee.

    Attributes:
        url: URL of the server, for clients.
        redis_url: URL of Redis; empty for a stack in memory.
    """

    def __init__(self, url: str, connect: Callable[[], Client], redis_url: str = "") -> None:
        self.url = url
        self.redis_url = redis_url
        self._connect = connect

    @cached_property
    def client(self) -> Client:
        """A client of the server. It connects when it is first used."""
        return self._connect()


@contextmanager
def memory_stack(
    callee: Mapping[str, Thunk], *, client_options: Mapping[str, Any] | None = None, **server_options: Any
) -> Iterator[Stack]:
    """Run a server, the callee and a memory broker in this process during a ``with`` block.

    They run in one thread, so monkey-patching is not needed. A function that blocks without gevent's knowledge blocks
    the whole stack. Functions for pools run in greenlets, too; use `redis_stack` to test them in their pools.

    Args:
        callee: functions by URI.
        client_options: options of `juggler.client.Client` for the client of the stack, for example the headers that a
            connect hook expects.
        server_options: options of `juggler.server.Server`.

    Raises:
        ValueError: there is no function, or as for `callee.worker.Worker`.
    """
    check_uris(callee)
    service = _Service(callee, server_options)
    thread = threading.Thread(target=service.run, name="juggler-memory-stack", daemon=True)
    thread.start()
    try:
        url = service.wait()
        with ExitStack() as clients:
            yield Stack(url, lambda: clients.enter_context(Client(url, **(client_options or {}))))
    finally:
        service.stop()
        thread.join(STOP_TIMEOUT)


class _Service:
    """The server and the worker, in a thread."""

    def __init__(self, callee: Mapping[str, Thunk], server_options: dict[str, Any]) -> None:
        self._callee = callee
        self._server_options = server_options
        self._started = threading.Event()
        self._hub_outside = get_hub()
        self._worker: Worker | None = None
        self._url = ""
        self._error: Exception | None = None

    def run(self) -> None:
        hub = get_hub()
        try:
            self._serve()
        except Exception as error:
            self._error = error
            self._started.set()
        finally:
            # The thread has its own hub, unless threads are monkey-patched.
            if hub is not self._hub_outside:
                hub.destroy(destroy_loop=True)

    def _serve(self) -> None:
        # Imported here, because it starts the event loop of the importing thread.
        from gevent.pywsgi import WSGIServer

        with ExitStack() as stack:
            broker = MemoryBroker(blocking_timeout=0.1)
            stack.callback(broker.close)
            in_place = {uri: thunk.in_place() for uri, thunk in self._callee.items()}
            worker = Worker(in_place, broker, grace=1.0, mask_errors=False)
            server = Server(caller_broker=broker, pubsub_broker=broker, **self._server_options)
            http = WSGIServer(("127.0.0.1", 0), Application(server), handler_class=WebSocketHandler, log=None)
            http.start()
            stack.callback(http.stop, 1)
            stack.callback(server.shut_down, 1.0, 0.0)
            self._url = f"ws://127.0.0.1:{http.server_port}/ws"
            self._worker = worker
            self._started.set()
            worker.run()

    def wait(self) -> str:
        """Return the URL when the server listens."""
        if not self._started.wait(START_TIMEOUT):
            raise TimeoutError(f"the stack did not start within {START_TIMEOUT:g} s")
        if self._error is not None:
            raise self._error
        return self._url

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()


@contextmanager
def redis_stack(name: str, *callee_options: str, server_options: tuple[str, ...] = ()) -> Iterator[Stack]:
    """Run an embedded Redis, ``juggler server`` and ``juggler-callee`` during a ``with`` block.

    Args:
        name: the callee, as ``MODULE:OBJECT``. The current directory is searched first.
        callee_options: more options of ``juggler-callee``.
        server_options: more options of ``juggler server``.

    Raises:
        juggler.errors.ConfigError: a process did not start. It has printed the reason on standard error.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis())
        server = stack.enter_context(
            _process(redis.url, "juggler.cli.main", "server", "--bind", "127.0.0.1:0", *server_options)
        )
        stack.enter_context(_process(redis.url, "juggler.callee.cli", name, "--show-errors", *callee_options))
        found = re.search(r"ws://\S+", server)
        if found is None:
            raise ConfigError(f"cannot find the URL in the first line of the server: {server!r}")
        url = found.group()
        yield Stack(url, lambda: stack.enter_context(Client(url)), redis.url)


@contextmanager
def _process(redis_url: str, *arguments: str) -> Iterator[str]:
    """Run a command during a ``with`` block. The target is its first line, printed once it serves."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("JUGGLER_")}
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", *arguments],
        env={**own, "REDIS_URL": redis_url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            # All output is read, or the process would block when the pipe is full.
            copier = threading.Thread(target=_copy, args=(process.stdout, lines), daemon=True)
            copier.start()
            try:
                line = lines.get(timeout=START_TIMEOUT)
            except queue.Empty:
                raise ConfigError(f"{' '.join(arguments)}: did not start within {START_TIMEOUT:g} s") from None
            if not line:
                raise ConfigError(f"{' '.join(arguments)}: exited with exit code {process.wait()}")
            yield line
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            copier.join()


def _copy(source: IO[str], lines: queue.Queue[str]) -> None:
    """Put the first line into ``lines``, empty at the end of the stream, and print the rest."""
    lines.put(source.readline())
    for line in source:
        print(line, end="")
