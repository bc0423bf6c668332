"""Call functions as a client would, without a client, a server or Redis."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.pools.greenlets import GreenletRunner
from juggler.callee.thunk import Thunk
from juggler.client.state import result_value
from juggler.errors import Expired, NackCode, Nacked
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import decode_args, encode_args
from juggler.protocol.messages import Res


class Published(NamedTuple):
    """An event published by a function. ``args`` is decoded."""

    channel: str
    args: Any


class Caller:
    """Runs the functions of a callee in place.

    ::

        caller = Caller(rpc)
        assert caller.call("math.add", [1, 2]) == 3

    Arguments and results are encoded as JSON, arguments are validated, and errors are those of `juggler.client`.
    Functions registered for a pool run in place as well.

    Attributes:
        published: events that functions have published, oldest first.
    """

    def __init__(
        self,
        callee: Mapping[str, Thunk],
        *,
        caller: Any = None,
        time_limit: float | None = None,
        mask_errors: bool = False,
    ) -> None:
        """Create a caller.

        Args:
            callee: functions by URI.
            caller: identity that functions receive, any JSON value, see `callee.caller`. ``None`` means unknown.
            time_limit: see `callee.worker.Worker`.
            mask_errors: see `callee.worker.Worker`. Default: False, so that tests show every error.

        Raises:
            juggler.errors.InvalidValue: JSON does not support the identity.
        """
        self.published: list[Published] = []
        self._callee = callee
        self._runner = GreenletRunner(time_limit)
        self._mask = mask_errors
        self._by = b"" if caller is None else encode_args(caller)

    def call(self, uri: str, args: Any = None, timeout: float = 60.0) -> Any:
        """Call a function and return its result.

        Args:
            uri: URI of the function.
            args: any JSON value.
            timeout: deadline of the call, in seconds from now.

        Raises:
            juggler.errors.CallFailed: the function raised, the arguments do not match, or JSON does not support the
                result. ``__cause__`` is the exception that the function raised.
            juggler.errors.Expired: the call took longer than ``timeout``.
            juggler.errors.Nacked: no function is registered for the URI; code 404.
            juggler.errors.InvalidValue: JSON does not support the arguments.
        """
        thunk = self._callee.get(uri)
        if thunk is None:
            raise Nacked(NackCode.NOT_FOUND, f"no function is registered for {uri}")
        deadline = time.monotonic() + timeout
        call = IncomingCall(
            new_uuid(), new_uuid(), uri, encode_args(args), deadline, publisher=self._publish, by=self._by
        )
        raised: BaseException | None = None
        try:
            found = self._runner.run(thunk, call)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exception:
            found, raised = answer.error(exception, call.msg_uuid, self._mask), exception
        if time.monotonic() >= deadline:
            raise Expired(f"no result of {uri} within {timeout:g} s")
        return _value(uri, found, raised)

    def _publish(self, channel: str, args: bytes) -> None:
        self.published.append(Published(channel, decode_args(args)))


def _value(uri: str, found: Answer, raised: BaseException | None) -> Any:
    result = Res(for_=new_uuid(), uri=uri, args=found.args, failed=found.failed)
    if raised is None:
        return result_value(result)
    try:
        result_value(result)
    except Exception as failure:
        raise failure from raised
    raise AssertionError("an error was encoded as a result")
