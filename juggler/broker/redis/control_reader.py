"""The callee's side of control: hear of cancelled calls and of credit, and show that the process is alive."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from juggler.broker import ControlListener, Done, IncomingCall, is_from_juggler
from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.lifetimes import ALIVE_MS
from juggler.broker.redis.link import gather
from juggler.broker.redis.replies import Reply, ignore
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.process.logline import Line
from juggler.protocol.control import decode_control

log = logging.getLogger("juggler.redis")

LOOKS = 2
"""Looks at the running calls, one per second, after which a call that was in all of them is reported."""

Report: TypeAlias = Callable[[IncomingCall, str, Done], None]
"""Stores that a callee has taken a call."""


class ControlReader:
    """Reads the control messages of a callee process, keeps its key alive and reports long calls, until `close`."""

    def __init__(
        self,
        callee_id: str,
        listener: ControlListener,
        report: Report,
        names: Names,
        topology: Topology,
        watchdog: Watchdog,
    ) -> None:
        self._callee_id = callee_id
        self._listener = listener
        self._report = report
        self._looks: dict[str, int] = {}
        self._names = names
        self._topology = topology
        self._watchdog = watchdog
        self._alive = names.alive(callee_id)
        self._keep_alive()
        watchdog.add(self._on_second)
        topology.on_up(self._on_up)
        self._reader = topology.make_list_reader("control", names.control(callee_id), self._on_messages)

    def close(self) -> None:
        """Stop reading and delete the key. Idempotent."""
        self._watchdog.remove(self._on_second)
        self._reader.close()
        with suppress(BrokerUnavailable):
            self._topology.link_for(self._alive).send(pack(b"DEL", self._alive), (ignore,))

    def _on_second(self, elapsed: float) -> None:
        self._keep_alive()
        self._report_long_calls()
        if not self._listener.listed:
            self._look_up_running()

    def _on_up(self) -> None:
        self._looks.clear()  # what was reported may be lost
        self._keep_alive()
        self._look_up_running()

    def _keep_alive(self) -> None:
        with suppress(BrokerUnavailable):
            self._topology.link_for(self._alive).send(pack(b"SET", self._alive, b"", b"PX", ALIVE_MS), (ignore,))

    def _report_long_calls(self) -> None:
        """Report which calls this process runs, so that their servers notice if it dies.

        Calls that asked for parts were reported when they were taken. Short calls cost nothing.
        """
        looks: dict[str, int] = {}
        for call in self._listener.running():
            call_id = call.msg_uuid
            if call.parts is None and is_from_juggler(call_id):
                count = looks[call_id] = self._looks.get(call_id, 0) + 1
                if count == LOOKS:
                    self._report(call, self._callee_id, partial(self._on_reported, call_id))
        self._looks = looks

    def _on_reported(self, call_id: str, error: BrokerError | None) -> None:
        if error is not None:
            self._looks.pop(call_id, None)

    def _on_messages(self, batch: list[bytes]) -> None:
        for text in batch:
            try:
                control = decode_control(text)
            except InvalidMessage as error:
                log.warning(Line("redis: control message ignored", error=error))
                continue
            for call_id in control.cancel:
                self._listener.on_cancel(call_id)
            for call_id, until in control.credit.items():
                self._listener.on_credit(call_id, until)

    def _look_up_running(self) -> None:
        """Look for cancelled calls whose control message may have been lost, or was never sent."""
        ids = [(call.uri, call.msg_uuid) for call in self._listener.running()]
        keys = [self._names.cancelled(uri, call_id) for uri, call_id in ids]
        if keys:
            commands = [(key, pack(b"EXISTS", key)) for key in keys]
            gather(self._topology.link_for, commands, partial(self._on_looked_up, [call_id for _, call_id in ids]))

    def _on_looked_up(self, call_ids: list[str], replies: list[Reply]) -> None:
        for call_id, reply in zip(call_ids, replies, strict=True):
            if reply == 1:
                self._listener.on_cancel(call_id)
