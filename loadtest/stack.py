"""A Redis, a juggler server and callees, each in processes of its own, on free ports of loopback."""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from juggler.errors import ConfigError
from juggler.process.embedded import HOST, EmbeddedRedis, free_port
from juggler.process.metrics.exposition import parse
from juggler.process.metrics.rates import Samples
from loadtest.children import Child, Children
from loadtest.errors import LoadTestError

ROOT = Path(__file__).parents[1]
START_TIMEOUT = 30.0


class Stack:
    """A running Redis, and what is started on it; a context manager that stops all of it.

    Attributes:
        redis: the Redis.
        redis_port: its TCP port: what is measured uses TCP, as in production.
        redis_url: its URL with that port.
        url: websocket URL of the last server; empty before `start_server`.
        metrics_url: URL of its metrics; likewise.
        children: all processes but Redis.
    """

    def __init__(self) -> None:
        """Start Redis.

        Raises:
            LoadTestError: no Redis can be started.
        """
        self.url = self.metrics_url = ""
        with ExitStack() as stack:
            try:
                self.redis_port = free_port()
                self.redis_url = f"redis://{HOST}:{self.redis_port}"
                options = ("--port", str(self.redis_port), "--bind", HOST)
                self.redis = stack.enter_context(EmbeddedRedis(options=options))
            except ConfigError as error:
                raise LoadTestError(str(error)) from None
            self.children = stack.enter_context(Children())
            self._stack = stack.pop_all()

    def __enter__(self) -> Stack:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all processes, Redis last. Idempotent."""
        self._stack.close()

    def start_server(self, *options: str, app: str = "") -> Child:
        """Start ``juggler server`` on a free port.

        Args:
            options: further options of the command.
            app: a server of your own, ``MODULE:OBJECT``, which finds Redis in ``REDIS_URL``.

        Raises:
            LoadTestError: it did not start.
        """
        metrics = f"127.0.0.1:{free_port()}"
        self.metrics_url = f"http://{metrics}"
        # Generators keep more calls in flight on a connection than the default allows.
        own = [app] if app else ["--max-calls", "1000"]
        own += ["--bind", "127.0.0.1:0", "--metrics-bind", metrics]
        child = self._start("server", "juggler.cli.main", "server", *own, *options)
        shown = child.hear_match(r"(ws|http)://\S+", START_TIMEOUT).group()
        # Several workers of an app of your own do not print the path.
        self.url = shown if shown.startswith("ws:") else f"ws://{urlsplit(shown).netloc}/ws"
        return child

    def start_callee(
        self, *options: str, target: str = "callee.demo:rpc", delays: int = 0, **environment: str
    ) -> Child:
        """Start ``juggler-callee``.

        Args:
            options: further options of the command.
            target: ``MODULE:OBJECT`` with the functions.
            delays: number of additional functions ``test.delay.<n>`` of the demo.
            environment: further environment variables.

        Raises:
            LoadTestError: it did not start.
        """
        environment["JUGGLER_DEMO_DELAYS"] = str(delays)
        child = self._start("callee", "callee.cli", target, *options, **environment)
        self.wait_serving(child)
        return child

    def sabotage(self, kind: str, url: str, *options: str) -> str:
        """Start a proxy that breaks the promises of the server at ``url``, and return its own URL.

        Raises:
            LoadTestError: it did not start.
        """
        child = self.children.start("saboteur", ["-m", "loadtest.sabotage", kind, url, *options], cwd=str(ROOT))
        return child.hear_match(r"ws://\S+", START_TIMEOUT).group()

    def wait_serving(self, callee: Child) -> None:
        """Wait until a callee reports that it serves its functions.

        Raises:
            LoadTestError: it did not within `START_TIMEOUT`.
        """
        callee.hear_match("^serving ", START_TIMEOUT)

    def metrics(self, url: str = "") -> Samples:
        """Return the metrics at a URL. Default: those of the last server.

        Raises:
            OSError: the server does not answer.
        """
        with urllib.request.urlopen(f"{url or self.metrics_url}/metrics", timeout=5) as response:
            return parse(response.read().decode())

    def _start(self, name: str, module: str, *arguments: str, **environment: str) -> Child:
        environment["REDIS_URL"] = self.redis_url
        return self.children.start(name, ["-m", module, *arguments], environment=environment)
