"""A locust user with a juggler client, whose messages are checked and appear in locust's statistics.

locust monkey-patches on import, and has to be imported before juggler's client; otherwise a user blocks all others. The
command ``locust`` does so, and so does ``from juggler.locust import JugglerUser``.
"""

from __future__ import annotations

# The order matters, see above; import sorters keep it as long as juggler is a first-party package.
import locust
from gevent import monkey

if not monkey.is_module_patched("socket"):
    raise ImportError("locust has not patched: unset LOCUST_SKIP_MONKEY_PATCH, and import locust before juggler")

import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import gevent
from locust.exception import RescheduleTask

from juggler.errors import ConfigError, InvalidValue, JugglerError, NotSupported
from juggler.locust.client import ExpectedError, Measure, RecordingClient, check_expected, matching
from juggler.locust.ledger import Ledger
from juggler.locust.listeners import events, ledger_of
from juggler.locust.request_checks import Fate
from juggler.protocol.glob import matches
from juggler.protocol.messages import Call

RETRY = 1.0
"""Seconds between attempts to connect."""

MAX_NAMES = 10_000
"""URIs and channels whose group a process remembers."""

_BUGS = (ConfigError, InvalidValue, NotSupported)
"""Errors of the locustfile, which no message reports: locust shows their traceback."""


class JugglerUser(locust.User):
    """A user of your application: a locust user with a connection to a juggler server, ``--host ws://…``.

    Tasks use ``self.client``, a `juggler.client.Client`. Each of its requests appears in the statistics, by URI or
    channel. A refused or failed request is a failure, and aborts the task. At the end, locust exits with 1 if a call
    or an event was lost, duplicated or misdirected.

    Types in the statistics: CALL (to the result), PART and STREAM (to the first part and to the result, of calls with
    parts), EXPIRED, CANCEL, PUB, SUB, UNSB and AUTH (to the ACK), EVNT (from the publication), ENDS (the server
    cancelled a subscription), CONNECT, and CHECK at the end.

    Attributes:
        client_options: options of `juggler.client.Client`, for example ``{"call_timeout": 5.0}``. A property may
            return different ones for each user. Default: none.
        expected_errors: errors that are no failures, see `expect`. Default: none.
        groups: globs, for example ``"room.*"``. The statistics show a URI or channel that matches by the first of them.
            Default: none, each name has its own row.
        withheld: globs of channels whose events a handler of yours withholds from some subscribers. These events may be
            missed. Default: none.
    """

    abstract = True
    client_options: Mapping[str, Any] = {}
    expected_errors: Sequence[ExpectedError] = ()
    groups: Sequence[str] = ()
    withheld: Sequence[str] = ()

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.tasks = [_guarded(task) for task in type(self).tasks]
        # A refused request in a user's own on_start must not end the user.
        setattr(self, "on_start", _guarded_start(self.on_start))  # noqa: B010  # mypy: a method
        self._expected = check_expected(tuple(self.expected_errors))
        self.ledger.book.events.withheld.update(self.withheld)
        self._name_of = functools.lru_cache(MAX_NAMES)(self._group)
        self._client: RecordingClient | None = None

    def token(self) -> str | None:
        """Return the access token of this user; override it. Default: ``None``, no token.

        Called for each connection, and before the token expires.
        """
        return None

    @staticmethod
    def expect_result(call: Call) -> Any:
        """Return the result that a call must have, or a `Fate`; override it to check results. Default: any."""
        return Fate.ANY

    def on_connect(self) -> None:
        """Called for each new connection; override it, for example to subscribe."""

    def on_start(self) -> None:
        """Connect. Override it for what a user does first."""
        _ = self.client

    def on_stop(self) -> None:
        """Disconnect after the last call has completed. If you override it, call it."""
        self.disconnect()

    @property
    def ledger(self) -> Ledger:
        """The state of the test in this process."""
        return ledger_of(self.environment)

    @property
    def client(self) -> RecordingClient:
        """The client, which connects on first use, and again after a lost connection."""
        if self._client is None or self._client.closed is not None:
            if self._client is not None:
                self.ledger.clients.discard(self._client)
            self._client = self._connect()
            with suppress(JugglerError):  # reported already
                self.on_connect()
        return self._client

    def disconnect(self) -> None:
        """Wait at most 15 seconds for calls in flight, and close the client; the next use creates another one."""
        if self._client is not None:
            client, self._client = self._client, None
            self.ledger.leave(client)

    @contextmanager
    def expect(self, *errors: ExpectedError) -> Iterator[None]:
        """Expect errors of requests that begin in a ``with`` block, beside `expected_errors`.

        Such an error is no failure, and ends the block, not the task. The statistics show the request in a row of its
        own, such as ``shop.buy (SoldOut)``.

        ::

            with self.expect("SoldOut", 429):
                self.client.call("shop.buy", "tea")

        Args:
            errors: types of failed calls such as ``"SoldOut"``, codes of failed calls and refusals such as 429, or
                classes such as `juggler.errors.Expired`.

        Raises:
            TypeError: an error is none of them.
        """
        before, self._expected = self._expected, self._expected + check_expected(errors)
        self._set_expected()
        try:
            yield
        except JugglerError as error:
            if not matching(error, self._expected):
                raise
        finally:
            self._expected = before
            self._set_expected()

    def report(
        self, kind: str, name: str, seconds: float | None = None, size: int = 0, error: Exception | None = None
    ) -> None:
        """Add a request to locust's statistics.

        Args:
            kind: type of the request.
            name: URI or channel.
            seconds: duration; None if unknown.
            size: size of the response in bytes.
            error: why it failed; None if it did not.
        """
        self.environment.events.request.fire(
            request_type=kind,
            name=self._name_of(name),
            response_time=None if seconds is None else seconds * 1000,
            response_length=size,
            exception=error,
            context=self.context(),
        )

    def _connect(self) -> RecordingClient:
        options = dict(self.client_options)
        if type(self).token is not JugglerUser.token:
            options["token"] = self.token
        while not self.ledger.stopping:
            began, path = time.monotonic(), urlsplit(self.host or "").path
            try:
                client = RecordingClient(
                    self.host or "", self.ledger.book, self._on_measure, self.expect_result, **options
                )
            except JugglerError as error:
                self.report("CONNECT", path, time.monotonic() - began, error=error)
                gevent.sleep(RETRY)
                continue
            client.expected = self._expected
            self.report("CONNECT", path, time.monotonic() - began)
            self.ledger.clients.add(client)
            return client
        raise gevent.GreenletExit  # locust logs any other exception of on_start

    def _set_expected(self) -> None:
        if self._client is not None:
            self._client.expected = self._expected

    def _on_measure(self, measure: Measure) -> None:
        self.report(*measure)

    def _group(self, name: str) -> str:
        uri, bracket, error = name.partition(" (")
        group = next((glob for glob in self.groups if matches(glob, uri)), "")
        own = group or uri.replace(f"{self.ledger.run}.", "").replace(f".{self.ledger.run}", "")
        return f"{own}{bracket}{error}"


def _guarded(task: Any) -> Any:
    """Return a task that ends on an error of the client, without raising it to locust: a message has reported it."""
    if isinstance(task, type):
        return _guarded_set(task)

    @functools.wraps(task)
    def run(owner: Any) -> None:
        with _reported():
            task(owner)

    return run


@functools.cache
def _guarded_set(task_set: Any) -> Any:
    """Return the subclass of a TaskSet whose tasks are guarded. It is left if its start fails."""

    def execute_task(self: Any, task: Any) -> None:
        with _reported():
            task_set.execute_task(self, _guarded_set(task) if isinstance(task, type) else task)

    def on_start(self: Any) -> None:
        with _reported():
            task_set.on_start(self)

    # Abstract: the metaclass of a Markov chain would look for its transitions among these members.
    members = {"execute_task": execute_task, "on_start": on_start, "abstract": True, "__module__": task_set.__module__}
    guarded = type(task_set)(task_set.__name__, (task_set,), members)
    guarded.tasks = task_set.tasks
    return guarded


def _check_hosts(environment: Any, **_: Any) -> None:
    """Exit with code 2 if a user has no valid host. In the web UI and on workers, the host is only known later."""
    options = environment.parsed_options
    if options is None or options.worker or not (options.headless or options.autostart):
        return
    for user in environment.user_classes:
        host = environment.host or user.host or ""
        if issubclass(user, JugglerUser) and not is_websocket(host):
            given = f"got {host!r}" if host else "it is missing"
            print(f"locust: --host: expected ws://host:port/path or wss://…, {given}", file=sys.stderr)
            sys.exit(2)


def is_websocket(url: str) -> bool:
    """Return whether a text is the URL of a websocket."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except _BUGS:
        raise
    except JugglerError:
        raise RescheduleTask from None


def _guarded_start(on_start: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            on_start()
        except _BUGS:
            raise
        except JugglerError:
            pass  # reported, as in a task

    return run


events.init.add_listener(_check_hosts)
