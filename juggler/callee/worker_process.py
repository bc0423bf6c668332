"""A process that serves a callee: by itself, or under a supervisor. It patches, so it is imported for that alone."""

from __future__ import annotations

from gevent import monkey

# First of all: what is imported from here on, the user's module above all, gets what is patched.
monkey.patch_all()

import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import ExitStack, closing, contextmanager, suppress  # noqa: E402
from types import FrameType  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

from juggler.broker import redis  # noqa: E402
from juggler.broker.redis import RedisBroker, wait_for  # noqa: E402
from juggler.callee.command_options import Options, chosen, shortened  # noqa: E402
from juggler.callee.health import HealthServer, Status, check_file, touch  # noqa: E402
from juggler.callee.metric_names import summary  # noqa: E402
from juggler.callee.registry import load_callee  # noqa: E402
from juggler.callee.supervisor_messages import CONTROL_VARIABLE, Report, Serving, encode, serving_line  # noqa: E402
from juggler.callee.worker import Worker  # noqa: E402
from juggler.errors import ConfigError  # noqa: E402
from juggler.process import logs  # noqa: E402
from juggler.process.metrics import Snapshot  # noqa: E402

log = logging.getLogger("juggler.callee")

WAYS_OUT = "start one, or name another with --redis or REDIS_URL"
PERIOD = 1.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


def serve(options: Options, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    """Serve until a signal, or the supervisor, says stop. Return how many calls were given up.

    Args:
        options: those of the command.
        say: told what is served, and in the end what was done.
        complain: told what keeps it from serving.

    Raises:
        ConfigError: it cannot serve.
    """
    logs.configure(options.log_level, options.log_format)
    descriptor = os.environ.pop(CONTROL_VARIABLE, None)
    if descriptor is not None:
        # Signals are the supervisor's business. Not SIG_IGN, which programs that functions start would inherit.
        for each in (*_STOPS, signal.SIGHUP):
            signal.signal(each, _ignore)
        os.register_at_fork(after_in_child=_default_signals)
        with socket.socket(fileno=int(descriptor)) as supervisor, closing(_Process(options, complain)) as process:
            return _Supervised(process, supervisor).run()
    with closing(_Process(options, complain)) as process:
        return _Alone(process, say).run()


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Do nothing at a signal."""


def _default_signals() -> None:
    for each in (*_STOPS, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


class _Process:
    """A worker with its brokers."""

    def __init__(self, options: Options, complain: Callable[[str], None]) -> None:
        self.options = options
        callee = load_callee(options.name)
        self.uris = chosen(callee, options.only, options.without)
        self._stack = ExitStack()
        self._broker = self._make_broker(options.redis_url or redis.DEFAULT_URL)
        pubsub = self._make_broker(options.pubsub_url) if options.pubsub_url else None
        self._complain = complain
        try:
            self.worker = Worker(
                callee,
                self._broker,
                pubsub_broker=pubsub,
                concurrency=options.concurrency,
                threads=options.threads,
                processes=options.pool_processes,
                source=options.name,
                uris=self.uris,
                grace=options.grace,
                time_limit=options.time_limit,
                mask_errors=options.mask_errors,
            )
        except BaseException:
            self._stack.close()
            raise

    def _make_broker(self, url: str) -> RedisBroker:
        try:
            broker = RedisBroker(url, key_prefix=self.options.key_prefix)
        except ValueError as error:
            self._stack.close()
            raise ConfigError(str(error)) from error
        self._stack.callback(broker.close)
        return broker

    def close(self) -> None:
        """Close the brokers. Idempotent."""
        self._stack.close()

    def wait_for_redis(self) -> None:
        """Wait until Redis answers, if it was named."""
        patient = bool(self.options.redis_url) and not self.options.fail_fast
        wait_for(self._broker, self._complain, patient=patient, ways_out=WAYS_OUT)

    @property
    def serving(self) -> Serving:
        return Serving(self.uris, self.worker.capacity, self._broker.shown_url)

    def status(self) -> Status:
        return Status(self.worker.unwell(), self.worker.snapshot())


@contextmanager
def _every_second(do: Callable[[], None]) -> Iterator[None]:
    """Do something now and every second, for the time of a ``with`` block, and never half of it."""
    over = Event()

    def run() -> None:
        while not over.is_set():
            do()
            over.wait(PERIOD)

    greenlet = gevent.spawn(run)
    greenlet.name = "callee-status"
    try:
        yield
    finally:
        over.set()
        greenlet.join(PERIOD)
        greenlet.kill()


class _Alone:
    """The life of a process that nobody supervises."""

    def __init__(self, process: _Process, say: Callable[[str], None]) -> None:
        self._process = process
        self._say = say
        self._again = False
        self._stopping = False
        self._waiting = "waiting for Redis"

    def run(self) -> int:
        options, worker = self._process.options, self._process.worker
        check_file(options.health_file)
        signal.signal(signal.SIGHUP, _ignore)  # until there is something to be renewed
        with ExitStack() as stack:
            if options.listen is not None:
                server = HealthServer(options.listen, self._status)
                stack.callback(server.close)
                log.info("health and figures at http://%s:%d", *server.address)
            self._process.wait_for_redis()
            self._waiting = ""
            self._take_signals()
            stack.enter_context(_every_second(lambda: touch(options.health_file, self._status())))
            worker.start()
            self._say(serving_line(self._process.serving, 1, shortened(self._process.uris)))
            given_up = worker.run()
            self._say(f"stopped: {summary(worker.snapshot())}")
        if self._again and not self._stopping:
            self._process.close()
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
        return given_up

    def _status(self) -> Status:
        return Status(self._waiting, Snapshot()) if self._waiting else self._process.status()

    def _take_signals(self) -> None:
        def on_stop(signum: int, frame: FrameType | None) -> None:
            # The next one ends the process at once, even one that computes and never looks up.
            for each in _STOPS:
                signal.signal(each, signal.SIG_DFL)
            self._stopping = True
            self._process.worker.stop()

        for each in _STOPS:
            signal.signal(each, on_stop)
        gevent.signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Begin anew with the code as it is now, if that can be served."""
        command = [sys.executable, *sys.orig_argv[1:], "--check"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if self._stopping:
            return
        if checked.returncode:
            log.error("not reloaded, the old code goes on: %s", checked.stderr.strip())
            return
        log.info("reloading")
        self._again = True
        self._process.worker.stop(returning=True)


class _Supervised:
    """The life of a process that is told what to do, and tells how it is. Signals are its supervisor's business."""

    def __init__(self, process: _Process, supervisor: socket.socket) -> None:
        self._process = process
        self._supervisor = supervisor
        self._serves = False

    def run(self) -> int:
        listener = gevent.spawn(self._listen)
        listener.name = "callee-control"
        try:
            self._process.wait_for_redis()
            self._serves = True
            self._process.worker.start()
            self._tell(self._process.serving)
            with _every_second(self._report):
                given_up = self._process.worker.run()
            self._report()
        finally:
            listener.kill()
        return given_up

    def _listen(self) -> None:
        # Whatever comes means stop, and so does the end: the supervisor is gone.
        with suppress(OSError):
            self._supervisor.recv(1)
        if not self._serves:
            os._exit(0)  # it waits for Redis, and has taken nothing
        self._process.worker.stop()

    def _report(self) -> None:
        self._tell(Report(*self._process.status()))

    def _tell(self, message: Serving | Report) -> None:
        with suppress(OSError):
            self._supervisor.sendall(encode(message))
