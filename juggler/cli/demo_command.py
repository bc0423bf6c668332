"""``juggler demo``: Redis, a server and a callee, each a process of its own, and a first call. All end together."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

import click

from juggler.cli.parameters import bind_option, verbose_option
from juggler.client import Client
from juggler.process.address import format_address
from juggler.process.embedded import EmbeddedRedis
from juggler.process.guard import ProcessGuard

FIRST_CALL = ("test.reverse", "olleh")
FIRST_CALL_TIMEOUT = 15.0
STOP_TIMEOUT = 12.0
POLL_INTERVAL = 0.1

SERVER = ("-m", "juggler.cli.main", "server")
CALLEE = ("-m", "callee.cli", "--fail-fast")
OWN = ("--fail-fast", "--playground", "--list-uri", "juggler.uris")
DEMO = "callee.demo:rpc"


@click.command()
@click.argument("callee", metavar="[MODULE:OBJECT]", default=DEMO)
@bind_option
@click.option("--app", metavar="MODULE:OBJECT", help="A juggler Server, or a WSGI application, of your own.")
@click.option("--reload", is_flag=True, help="Start the callee anew when a Python file changes.")
@click.option(
    "--redis", "redis_url", metavar="URL", envvar="REDIS_URL", show_envvar=True, help="Default: one of our own."
)
@verbose_option
def command(callee: str, bind: tuple[str, int], app: str | None, reload: bool, redis_url: str | None) -> None:
    """Run everything that juggler consists of, make a first call, and serve until Ctrl-C or SIGTERM.

    MODULE:OBJECT is a Callee of your own, in place of the demo's.

    \b
    Exit codes:
      0    ended by Ctrl-C or SIGTERM
      1    a part of it ended by itself
      2    a wrong option, a port in use, no Redis
    """
    with _stop_signals() as stop, ExitStack() as stack:
        # On the way out the server and the callee end before the Redis that they use.
        redis = None if redis_url else stack.enter_context(EmbeddedRedis())
        parts = _Parts(on_end=stop.set)
        stack.callback(parts.stop)
        if redis is not None:
            redis_url = redis.url
            parts.watch("redis", redis.wait)
        assert redis_url is not None
        _say("redis", _host(redis_url) + (" (embedded)" if redis else ""))
        url = _start(parts, bind, redis_url, callee, app, reload)
        if callee != DEMO:
            click.echo(f"\nOpen {_page(url)}. Ctrl-C ends it all.")
            stop.wait()
        elif _first_call(url, stop):
            _introduce(url, redis.url if redis else None)
            stop.wait()
        parts.check()


def _start(parts: _Parts, bind: tuple[str, int], redis_url: str, callee: str, app: str | None, reload: bool) -> str:
    """Start server and callee, and return the server's URL."""
    # An application of one's own knows its Redis itself.
    server = [*SERVER, *([app] if app else OWN), "--bind", format_address(bind)]
    url = parts.start("server", server, redis_url).rpartition(" ")[2]
    _say("server", url)
    parts.start("callee", [*CALLEE, *(["--reload"] if reload else []), callee], redis_url)
    _say("callee", callee)
    return url


def _page(url: str) -> str:
    """Return the address of the page that belongs to a websocket's."""
    return "http" + url.removeprefix("ws").rpartition("/")[0] + "/"


def _first_call(url: str, stop: _Stop) -> bool:
    """Return whether the call was answered before we had to stop."""
    uri, args = FIRST_CALL
    with Client(url) as client:
        call = client.start_call(uri, args, FIRST_CALL_TIMEOUT)
        while not (call.done or stop.wait(POLL_INTERVAL)):
            pass
        if not call.done:
            return False
        _say("call", f"{uri} {args!r} -> {call.result()!r}")
    return True


def _introduce(url: str, own_redis_url: str | None) -> None:
    option = "" if url == "ws://127.0.0.1:9000/ws" else f" --url {url}"
    lines = [
        f"juggler call test.echo '\"hello\"'{option}",
        f"juggler sub news{option}",
        f'juggler pub news \'{{"text": "hello"}}\'{option}',
    ]
    if own_redis_url is not None:
        lines.append(f"juggler-callee MODULE:OBJECT --redis {own_redis_url}")
    if shutil.which("juggler") is None:
        lines.insert(0, f". {os.path.relpath(sys.prefix)}/bin/activate")
    click.echo(f"\nOpen {_page(url)}, or try in another terminal:")
    click.echo("".join(f"  {line}\n" for line in lines) + "Ctrl-C ends it all.")


def _say(name: str, text: str) -> None:
    click.echo(f"{name:8}{text}")


def _host(redis_url: str) -> str:
    parts = urlsplit(redis_url)
    return parts.netloc.rpartition("@")[2] or parts.path


class _Stop:
    """Set when all is to end. Signals may come in the middle of anything here, of another signal's too: so no locks."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self._told.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for at most ``timeout`` seconds. Return whether it is."""
        try:
            self._told.get(timeout=timeout)
        except queue.Empty:
            return False
        self.set()  # for the next who asks
        return True


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Parts:
    """The processes that make up the demo. When one ends by itself, ``on_end`` is told."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._processes: list[subprocess.Popen[str]] = []
        self._ended: list[str] = []
        self._guard = ProcessGuard()

    def start(self, name: str, arguments: list[str], redis_url: str) -> str:
        """Start a process, and return the line that it prints when it is ready.

        Raises:
            Exit: it ended; on standard error it has said why.
        """
        # A session of its own: a Ctrl-C in the terminal is for us, and we end our parts in order.
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
        # What it prints from now on is for whoever looks at us; and it must never wait for a reader.
        threading.Thread(target=_copy, args=(process.stdout,), name=f"juggler-demo-{name}-out", daemon=True).start()
        self.watch(name, process.wait)
        return line

    def watch(self, name: str, wait: Callable[[], Any]) -> None:
        """Notice when ``wait`` returns."""

        def run() -> None:
            wait()
            self._ended.append(name)
            self._on_end()

        threading.Thread(target=run, name=f"juggler-demo-{name}", daemon=True).start()

    def check(self) -> None:
        """Raise when a part has ended by itself."""
        if self._ended:
            raise click.ClickException(f"the {self._ended[0]} ended by itself")

    def stop(self) -> None:
        """End all processes, those started last first."""
        # The guard first: it must not kill a process id that is no longer our child's.
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
