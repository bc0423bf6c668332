"""Where the workers of one gunicorn master show each other their figures: memory that all of them share.

The master makes it before it forks. Each worker writes only to its own slot; whoever reads notices a text that is being
written by its checksum. What a dead worker has counted is kept in a slot of its own before its slot is given away.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import zlib
from collections.abc import Callable

import gevent
import msgspec

from juggler.process.metrics import Snapshot, merge

log = logging.getLogger("juggler.metrics")

SLOTS = 64
SLOT_BYTES = 256 * 1024
PERIOD = 1.0
"""Seconds between two publications of a worker's figures."""

_HEAD = struct.Struct("<II")  # length and checksum of the text
_ATTEMPTS = 5
_RETIRED = 0


class Board:
    """Slots in shared memory; the first one is for the counters of workers that have ended."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._memory = mmap.mmap(-1, slots * SLOT_BYTES)
        self._free = list(range(slots - 1, _RETIRED, -1))

    def take(self) -> int | None:
        """Give away a slot, in the master; None when there is none."""
        return self._free.pop() if self._free else None

    def retire(self, slot: int) -> None:
        """Keep the counters of a worker that has ended, and take its slot back. In the master."""
        ended = self.read(slot)
        if ended is not None:
            kept = self.read(_RETIRED) or Snapshot()
            total = merge([kept, Snapshot(counters=ended.counters, calls=ended.calls)])
            self.write(_RETIRED, total)
        self._write(slot, b"")
        self._free.append(slot)

    def write(self, slot: int, snapshot: Snapshot) -> bool:
        """Put a snapshot into a slot. Return False when it is too large; the slot then stays as it was."""
        text = msgspec.json.encode(snapshot)
        if len(text) > SLOT_BYTES - _HEAD.size:
            return False
        self._write(slot, text)
        return True

    def _write(self, slot: int, text: bytes) -> None:
        start = slot * SLOT_BYTES
        self._memory[start + _HEAD.size : start + _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._memory, start, len(text), zlib.crc32(text))

    def read(self, slot: int) -> Snapshot | None:
        """Return what is in a slot; None when it is empty, or its writer died while it wrote."""
        start = slot * SLOT_BYTES
        for _ in range(_ATTEMPTS):
            length, checksum = _HEAD.unpack_from(self._memory, start)
            text = self._memory[start + _HEAD.size : start + _HEAD.size + length]
            if not length:
                return None
            if zlib.crc32(text) == checksum:
                return msgspec.json.decode(text, type=Snapshot)
        return None

    def others(self, slot: int) -> list[Snapshot]:
        """Return what all slots but one show."""
        taken = range(len(self._memory) // SLOT_BYTES)
        return [found for other in taken if other != slot and (found := self.read(other)) is not None]


class Place:
    """A worker's slot, and the greenlet that keeps it up to date, from `start` until `close`."""

    def __init__(self, board: Board, slot: int) -> None:
        self.board = board
        self.slot = slot
        self._greenlet: gevent.Greenlet | None = None
        self._snapshot: Callable[[], Snapshot] | None = None

    def start(self, snapshot: Callable[[], Snapshot]) -> None:
        """Begin to publish what ``snapshot`` returns, in the worker."""
        self._snapshot = snapshot
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = "juggler-metrics"

    def close(self) -> None:
        """Publish no more. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def publish(self) -> None:
        """Publish now."""
        if self._snapshot is not None and not self.board.write(self.slot, self._snapshot()):
            log.warning("the figures of this worker are too large to be shown to the others")

    def _run(self) -> None:
        while True:
            self.publish()
            gevent.sleep(PERIOD)


_boards: dict[int, Board] = {}
_here: Place | None = None


def board_of_master() -> Board:
    """Return the board of this process, which is a gunicorn master; it is made with the first call."""
    board = _boards.get(os.getpid())
    if board is None:
        board = _boards[os.getpid()] = Board()
    return board


def set_place(place: Place | None) -> None:
    """Say which place is this worker's."""
    global _here  # a process has one
    _here = place


def with_others(own: Snapshot) -> Snapshot:
    """Return this process's figures, together with those of the other workers, if there are any."""
    if _here is None:
        return own
    # Whoever answers next must not know less of us than is told now: counters never go back.
    _here.publish()
    return merge([own, *_here.board.others(_here.slot)])
