"""A client that reads a stream of large parts slowly, all the time: the server holds two windows at most."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent

from juggler.locust.violations import Violations
from loadtest.audit.call_client import CALL, CNCL, CRDT, SUBPROTOCOL
from loadtest.audit.calls import ACK, NACK, PART, RES
from loadtest.disturbances import Disturbances
from loadtest.raw_connection import RawConnection, request

WINDOW = 16
SIZE = 100_000
RATE = 1e9 / 600
"""Bytes a second: 1 GB in 10 minutes."""

SLACK = 2
"""Parts that the function may have made beyond two windows: it waits for credit in the yield of one."""

MAX_BEHIND = 1.0
"""Seconds that it makes up for when its process was too busy to read."""

TIMEOUT = 6.0
RETRY = 0.2
STOP_TIMEOUT = 15.0


class SlowReader:
    """A reader of one stream after the other, from construction until `stop`.

    Attributes:
        violations: broken promises.
        bytes: bytes of the parts that it has read.
        most: largest number of parts that were made and not yet read.
        streams: number of streams; a new one begins when a failure has ended the last.
    """

    def __init__(self, url: str, notes: Path, disturbances: Disturbances) -> None:
        """Start; ``notes`` is the file of the functions' notes."""
        self.violations = Violations()
        self.bytes = self.most = self.streams = 0
        self._url = url
        self._notes = notes
        self._made = notes
        self._disturbances = disturbances
        self._stopping = False
        self._due = 0.0
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Cancel the stream, and disconnect."""
        self._stopping = True
        self._greenlet.join(STOP_TIMEOUT)
        if not self._greenlet.dead:
            self.violations.add("a slow reader hangs")
            self._greenlet.kill()

    def line(self) -> str:
        """Format the counts."""
        return (
            f"slow reader: {self.bytes / 1e6:,.0f} MB in {self.streams} streams, "
            f"at most {self.most} parts made and not read"
        )

    def _run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                with RawConnection(self._url, timeout=TIMEOUT) as connection:
                    connection.upgrade(SUBPROTOCOL)
                    while not self._stopping:
                        began = time.monotonic()
                        self._check_end(began, self._read(connection))
            except OSError as error:
                self._check_end(began, f"{type(error).__name__} {error}")

    def _check_end(self, began: float, end: str) -> None:
        if not self._stopping:
            # What a failure has ended may be noticed a timeout later.
            if not self._disturbances.overlap(time.monotonic() - 2 * TIMEOUT, time.monotonic()):
                self.violations.add("a stream ended", f"{end}, after {time.monotonic() - began:.1f} s")
            gevent.sleep(RETRY)

    def _read(self, connection: RawConnection) -> str:
        """Read one stream, and return the reason for its end."""
        call = str(uuid.uuid4())
        self._made = Path(f"{self._notes}.{call}")
        wish = {"mode": "all", "window": WINDOW}
        timeout = int(TIMEOUT * 1e9)
        connection.send(request(CALL, uuid_=call, uri="soak.flow", args=[call, SIZE], timeout=timeout, parts=wish))
        self.streams += 1
        seen = granted = 0
        while True:
            for text in connection.receive():
                message = json.loads(text)
                type, payload = message["meta"]["type"], message["payload"]
                if type not in (ACK, NACK, RES, PART) or payload["for"] != call:
                    continue
                if type in (NACK, RES):
                    return str(payload.get("args") or payload)[:120]
                if type == PART:
                    seen = self._on_part(payload, seen)
                    self.bytes += len(text)
                    self._wait(len(text))
            if self._stopping:
                connection.send(request(CNCL, **{"for": call, "wait": False}))
                return "stopped"
            if seen >= granted + WINDOW // 2:
                granted = seen
                connection.send(request(CRDT, **{"for": call, "until": seen + WINDOW}))

    def _wait(self, size: int) -> None:
        """Wait until the next part may be read."""
        now = time.monotonic()
        self._due = max(self._due, now - MAX_BEHIND) + size / RATE
        gevent.sleep(max(0.0, self._due - now))

    def _on_part(self, payload: dict[str, Any], seen: int) -> int:
        """Check a message with parts, and return the number of the last one."""
        with suppress(OSError, ValueError):
            made = int(self._made.read_text())
            self.most = max(self.most, made - seen)
            if made - seen > 2 * WINDOW + SLACK:
                self.violations.add("more than two windows were made and not read", f"{made - seen} parts")
        for number, _ in payload.get("parts") or [payload["args"]]:
            seen += 1
            if number != seen:
                self.violations.add("parts with a gap", f"{number}, expected {seen}")
        return seen
