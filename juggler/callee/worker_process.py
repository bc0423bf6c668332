"""A process with one worker, alone or supervised. Importing this module monkey-patches."""

from __future__ import annotations

from juggler.process.patching import patch_all

# Before any other import: all modules, the user's above all, have to see what is patched.
patch_all()

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
from juggler.broker.redis import RedisBroker, connect_or_wait  # noqa: E402
from juggler.callee.command_options import CONTROL_VARIABLE, Options, chosen, shortened  # noqa: E402
from juggler.callee.health import Status, check_file, touch  # noqa: E402
from juggler.callee.metric_names import summary  # noqa: E402
from juggler.callee.registry import load_callee  # noqa: E402
from juggler.callee.supervisor_messages import (  # noqa: E402
    RETIRE,
    STOP,
    Report,
    Serving,
    encode,
    serving_line,
)
from juggler.callee.wear import JITTER, MB, WearLimits  # noqa: E402
from juggler.callee.worker import Worker  # noqa: E402
from juggler.errors import ConfigError  # noqa: E402
from juggler.process import logs  # noqa: E402
from juggler.process.forked import close_in_children  # noqa: E402
from juggler.process.hangup import Hangup  # noqa: E402
from juggler.process.logline import Line  # noqa: E402
from juggler.process.process_memory import resident  # noqa: E402
from juggler.process.trim import returned_memory  # noqa: E402

log = logging.getLogger("juggler.callee")

ADVICE = "start one, or name another with --redis or REDIS_URL"
PERIOD = 1.0
TERMINAL_VARIABLE = "JUGGLER_CALLEE_TERMINAL"
"""Environment variable of a process that restarts, set if it stops with its terminal."""

_STOPS = (signal.SIGTERM, signal.SIGINT)


def serve(options: Options, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    """Serve until a signal or the supervisor stops the process. Return the number of calls that were abandoned.

    Args:
        options: options of the command.
        say: receives a line when the process serves, and one when it has stopped.
        complain: receives a line while Redis is unreachable.

    Raises:
        ConfigError: the process cannot serve with these options.
    """
    logs.configure(options.log_level, options.log_format)
    os.register_at_fork(after_in_child=_default_signals)
    descriptor = os.environ.pop(CONTROL_VARIABLE, None)
    if descriptor is not None:
        # The supervisor handles signals. Not SIG_IGN, which programs started by functions would inherit.
        for each in (*_STOPS, signal.SIGHUP):
            signal.signal(each, _ignore)
        with socket.socket(fileno=int(descriptor)) as supervisor, closing(_Service(options, complain)) as service:
            close_in_children(supervisor)
            return _Supervised(service, supervisor).run()
    hangup = Hangup(os.environ.pop(TERMINAL_VARIABLE, None) is not None)
    for each in _STOPS:
        # The default action of SIGTERM does not stop a process with number 1, as in a container.
        signal.signal(each, _exit)
    signal.signal(signal.SIGHUP, lambda *_: _exit() if hangup.has_closed() else None)
    # Blocked during a restart, so that none is lost or kills the process.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOPS, signal.SIGHUP))
    if hangup.has_closed():
        return 0  # while it restarted
    with closing(_Service(options, complain)) as service:
        return _Alone(service, say, hangup).run()


def _exit(signum: int = 0, frame: FrameType | None = None) -> None:
    """Exit before there are calls."""
    os._exit(0)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Ignore a signal."""


def _default_signals() -> None:
    for each in (*_STOPS, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


class _Service:
    """A worker and its brokers."""

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
                share=options.share,
                source=options.name,
                uris=self.uris,
                grace=options.grace,
                time_limit=options.time_limit,
                mask_errors=options.mask_errors,
                pool_limits=options.wear,
            )
        except BaseException:
            self._stack.close()
            raise

    def _make_broker(self, url: str) -> RedisBroker:
        try:
            broker = RedisBroker(
                url,
                key_prefix=self.options.key_prefix,
                result_capacity=self.options.result_capacity,
                blocking_timeout=self.options.blocking_timeout,
            )
        except ValueError as error:
            self._stack.close()
            raise ConfigError(str(error)) from error
        self._stack.callback(broker.close)
        return broker

    def close(self) -> None:
        """Close the brokers. Idempotent."""
        self._stack.close()

    def wait_for_redis(self) -> None:
        """Wait for Redis if the user chose one; otherwise raise if it is unreachable."""
        wait = bool(self.options.redis_url) and not self.options.fail_fast
        connect_or_wait(self._broker, self._complain, wait=wait, remedies=ADVICE)

    @property
    def serving(self) -> Serving:
        return Serving(self.uris, self.worker.capacity, self._broker.shown_url)

    def status(self) -> Status:
        return Status(self.worker.unhealthy_reason(), self.worker.snapshot())


@contextmanager
def _every_second(do: Callable[[], None]) -> Iterator[None]:
    """Call a function now and every second during a ``with`` block. A call in progress completes."""
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
    """The life of an unsupervised process."""

    def __init__(self, service: _Service, say: Callable[[str], None], hangup: Hangup) -> None:
        self._service = service
        self._say = say
        self._hangup = hangup
        self._again = False
        self._checking = self._check_again = False
        self._stopping = False

    def run(self) -> int:
        options, worker = self._service.options, self._service.worker
        check_file(options.health_file)
        with ExitStack() as stack:
            self._service.wait_for_redis()
            self._take_signals()
            stack.enter_context(_every_second(lambda: touch(options.health_file, self._service.status())))
            worker.start()
            self._say(serving_line(self._service.serving, 1, shortened(self._service.uris)))
            with returned_memory():
                abandoned = worker.run()
            self._say(f"stopped: {summary(worker.snapshot())}")
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOPS, signal.SIGHUP))
        if self._again and not self._stopping:
            self._service.close()
            if self._hangup.stops:
                os.environ[TERMINAL_VARIABLE] = "1"
            with suppress(OSError):
                sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
        return abandoned

    def _take_signals(self) -> None:
        def on_stop(signum: int, frame: FrameType | None) -> None:
            # A second signal stops the process at once, even during a computation.
            for each in _STOPS:
                signal.signal(each, signal.SIG_DFL)
            self._stopping = True
            self._service.worker.stop()

        for each in _STOPS:
            signal.signal(each, on_stop)
        gevent.signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Restart with the current code, if it can be served. Stop if the terminal has closed."""
        if self._hangup.has_closed():
            self._stopping = True
            self._service.worker.stop()
            return
        if self._checking:
            self._check_again = True
            return
        self._checking = True
        checked = self._check()
        while checked.returncode and self._check_again:
            checked = self._check()
        self._checking = False
        if self._stopping:
            return
        if checked.returncode:
            log.error(Line("reload: failed, the old code keeps serving", error=checked.stderr.strip()))
            return
        log.info(Line("reload: restarting"))
        self._again = True
        self._service.worker.stop(returning=True)

    def _check(self) -> subprocess.CompletedProcess[str]:
        self._check_again = False
        command = [sys.executable, *sys.orig_argv[1:], "--check"]
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def _check_memory(limits: WearLimits) -> None:
    """Raise if the process would be replaced before its first call."""
    if not limits.memory:
        return
    used = resident()
    if used is None:
        raise ConfigError("--max-memory-per-process: this system does not show the memory of processes in /proc")
    if used >= limits.memory * (1 - JITTER):
        least = used / (1 - JITTER) // MB + 1
        raise ConfigError(
            f"--max-memory-per-process: expected at least {least:.0f}, got {limits.memory // MB}: "
            f"the process uses {used / MB:.0f} MB before its first call"
        )


class _Supervised:
    """The life of a supervised process: it receives commands and reports its status. The supervisor handles signals."""

    def __init__(self, service: _Service, supervisor: socket.socket) -> None:
        self._service = service
        self._supervisor = supervisor
        self._serves = False

    def run(self) -> int:
        listener = gevent.spawn(self._listen)
        listener.name = "callee-control"
        try:
            self._service.wait_for_redis()
            _check_memory(self._service.options.wear)
            self._serves = True
            self._service.worker.start()
            self._send(self._service.serving)
            with _every_second(self._report), returned_memory():
                abandoned = self._service.worker.run()
            self._report()
        finally:
            listener.kill()
        return abandoned

    def _listen(self) -> None:
        # If the supervisor exits, the socket closes, which has the effect of STOP.
        received = b""
        with suppress(OSError):
            while STOP not in received and (data := self._supervisor.recv(1024)):
                received += data
                if RETIRE in received:
                    self._service.worker.retire()
        if not self._serves:
            os._exit(0)  # still waiting for Redis, without calls in flight
        self._service.worker.stop()

    def _report(self) -> None:
        service = self._service
        limits = service.options.wear
        calls = service.worker.calls_run if limits.calls else 0
        memory = resident() if limits.memory else None
        self._send(Report(*service.status(), calls, memory))

    def _send(self, message: Serving | Report) -> None:
        with suppress(OSError):
            self._supervisor.sendall(encode(message))
