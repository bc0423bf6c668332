"""``juggler demo``: Redis, a server and a callee, each in its own process, and a first call.

By hand rather than with honcho, which runs the Procfile: each process starts when the previous one is ready, they stop
in reverse order, and a ProcessGuard kills them if the demo itself is killed.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO
from urllib.parse import urlsplit

import click

from juggler.cli.parameters import bind_option, verbose_option
from juggler.client import Client
from juggler.errors import NackCode, Nacked
from juggler.process.address import format_address, is_loopback
from juggler.process.embedded import EmbeddedRedis
from juggler.process.guard import ProcessGuard

FIRST_CALL = ("test.reverse", "olleh")
FIRST_CALL_TIMEOUT = 15.0
STOP_TIMEOUT = 12.0
POLL_INTERVAL = 0.1

SERVER = ("-m", "juggler.cli.main", "server")
LISTS = ("--list-uri", "juggler.uris", "--fleet-uri", "juggler.fleet")
SERVER_OPTIONS = ("--fail-fast", "--playground", *LISTS, "--unknown-uris", "refuse")
CALLEE = ("-m", "callee.cli", "--fail-fast", "--show-errors")
DEMO_FUNCTIONS = "callee.demo:rpc"


@click.command()
@click.argument("callee", metavar="[MODULE:OBJECT]", default=DEMO_FUNCTIONS)
@bind_option("127.0.0.1:9000")
@click.option("--app", metavar="MODULE:OBJECT", help="Your own juggler Server or WSGI application.")
@click.option("--reload", is_flag=True, help="Restart the callee when the code changes.")
@click.option(
    "--redis",
    "redis_url",
    metavar="URL",
    envvar="REDIS_URL",
    show_envvar=True,
    help="Redis to use. If unset, the demo starts a private one.",
)
@verbose_option
def command(callee: str, bind: tuple[str, int], app: str | None, reload: bool, redis_url: str | None) -> None:
    """Run Redis, a server with the playground, and a callee, until Ctrl-C or SIGTERM.

    MODULE:OBJECT is your own Callee. Without it, the demo runs example functions and calls one of them.

    \b
    Exit codes:
      0    stopped by Ctrl-C or SIGTERM
      1    a process exited unexpectedly
      2    invalid option, port in use, or Redis unreachable
    """
    with stop_on_signals() as stop, ExitStack() as stack:
        # Leaving the stack stops the callee and the server before the Redis that they use.
        redis = None if redis_url else stack.enter_context(EmbeddedRedis())
        processes = _Processes(on_exit=stop.set)
        stack.callback(processes.stop)
        if redis is not None:
            redis_url = redis.url
            processes.watch("the embedded Redis", redis.wait)
        assert redis_url is not None
        _print("redis", f"{redis.url} (embedded)" if redis else _host(redis_url))
        url = _start(processes, bind, redis_url, callee, app, reload)
        if callee != DEMO_FUNCTIONS:
            click.echo(f"\nOpen {_page(url)}.\nCtrl-C stops everything.")
            stop.wait()
        elif _first_call(url, stop):
            _introduce(url, redis.url if redis else None)
            stop.wait()
        if processes.exited:
            name, status = processes.exited[0]
            log = f"; its log ends with:\n{redis.log_tail()}" if redis and name == "the embedded Redis" else ""
            click.echo(f"juggler demo: {name} exited unexpectedly (exit status {status}){log}", err=True)
            raise click.exceptions.Exit(1)


def _start(
    processes: _Processes, bind: tuple[str, int], redis_url: str, callee: str, app: str | None, reload: bool
) -> str:
    """Start server and callee, and return the server's URL."""
    # Your own application defines its options in Python.
    server = [*SERVER, *([app] if app else SERVER_OPTIONS), "--bind", format_address(bind)]
    if not app and is_loopback(bind[0]):
        server.append("--metrics")
    url = processes.start("server", server, redis_url).rpartition(" ")[2]
    _print("server", url)
    processes.start("callee", [*CALLEE, *(["--reload"] if reload else []), callee], redis_url)
    _print("callee", callee)
    return url


def _page(url: str) -> str:
    """Return the address of the playground, given that of the websocket."""
    return "http" + url.removeprefix("ws").rpartition("/")[0] + "/"


def _first_call(url: str, stop: StopEvent) -> bool:
    """Make a call and print its result. Return False if stopped before."""
    uri, args = FIRST_CALL
    deadline = time.monotonic() + FIRST_CALL_TIMEOUT
    with Client(url) as client:
        while True:
            call = client.start_call(uri, args, FIRST_CALL_TIMEOUT)
            while not call.done:
                if stop.wait(POLL_INTERVAL):
                    return False
            try:
                _print("call", f"{uri} {args!r} -> {call.result()!r}")
            except Nacked as error:
                # A callee announces its functions just after it has printed its line.
                if error.code != NackCode.NOT_FOUND or time.monotonic() > deadline:
                    raise
            else:
                return True


def _introduce(url: str, embedded_url: str | None) -> None:
    option = "" if url == "ws://127.0.0.1:9000/ws" else f" --url {url}"
    lines = [
        f"juggler call test.echo '\"hello\"'{option}",
        f"juggler sub news{option}",
        f'juggler pub news \'{{"text": "hello"}}\'{option}',
    ]
    if embedded_url is not None:
        lines.append(f"juggler-callee MODULE:OBJECT --redis {embedded_url}")
    if shutil.which("juggler") is None:
        lines.insert(0, f". {os.path.relpath(sys.prefix)}/bin/activate")
    click.echo(f"\nOpen {_page(url)}, or run in another terminal:")
    click.echo("".join(f"  {line}\n" for line in lines) + "Ctrl-C stops everything.")


def _print(name: str, text: str) -> None:
    click.echo(f"{name:8}{text}")


def _host(redis_url: str) -> str:
    parts = urlsplit(redis_url)
    return parts.netloc.rpartition("@")[2] or parts.path


class StopEvent:
    """An event without locks, which signal handlers may set at any moment, within one another too."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self._items.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for at most ``timeout`` seconds. Return whether the event is set."""
        try:
            self._items.get(timeout=timeout)
        except queue.Empty:
            return False
        self.set()  # for the next wait
        return True


@contextmanager
def stop_on_signals() -> Iterator[StopEvent]:
    """Yield an event that SIGINT and SIGTERM set."""
    stop = StopEvent()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Processes:
    """The processes of the demo.

    Attributes:
        exited: name and exit status of processes that exited by themselves; each calls ``on_exit``.
    """

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self.exited: list[tuple[str, int]] = []
        self._on_exit = on_exit
        self._processes: list[subprocess.Popen[str]] = []
        self._guard = ProcessGuard()

    def start(self, name: str, arguments: list[str], redis_url: str) -> str:
        """Start a process, and return the line that it prints when it is ready.

        Raises:
            Exit: the process exited; it has printed the reason to standard error.
        """
        # In its own session: a Ctrl-C in the terminal must reach the demo alone, which stops processes in order.
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments],
            env={**os.environ, "REDIS_URL": redis_url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        self._guard.add(process.pid)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise click.exceptions.Exit(process.wait())
        # Keep reading: a full pipe would block the process.
        threading.Thread(target=_copy, args=(process.stdout,), name=f"juggler-demo-{name}-out", daemon=True).start()
        self.watch(f"the {name}", process.wait)
        return line

    def watch(self, name: str, wait: Callable[[], int]) -> None:
        """Record when ``wait`` returns an exit status."""

        def run() -> None:
            self.exited.append((name, wait()))
            self._on_exit()

        threading.Thread(target=run, name="juggler-demo-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop all processes in reverse order of start."""
        # The guard first: it must not kill a process id that the system has reused.
        self._guard.close()
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def _copy(source: IO[str]) -> None:
    for line in source:
        click.echo(line, nl=False)
