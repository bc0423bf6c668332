"""The shared memory in which workers show their figures."""

from __future__ import annotations

import os

from juggler.process.metrics import Histogram, Snapshot
from juggler.process.metrics.shared import SLOT_BYTES, Board


def counted(number: float) -> Snapshot:
    calls = {"f": Histogram([int(number)] + [0] * 15, number)}
    return Snapshot(counters={"c": {"": number}}, gauges={"g": {"": number}}, calls=calls)


def test_a_worker_sees_what_others_show():
    board = Board(4)
    first, second = board.take(), board.take()
    board.write(first, counted(1))
    board.write(second, counted(2))
    assert board.others(first) == [counted(2)]


def test_what_another_process_writes_is_seen_here():
    board = Board(4)
    slot = board.take()
    child = os.fork()
    if not child:
        board.write(slot, counted(3))
        os._exit(0)
    os.waitpid(child, 0)
    assert board.read(slot) == counted(3)


def test_the_counters_of_the_dead_are_kept_and_their_gauges_are_not():
    board = Board(2)
    for number in (1, 2):
        slot = board.take()
        board.write(slot, counted(number))
        board.retire(slot)
    (kept,) = board.others(1)
    assert kept.counters == {"c": {"": 3}}
    assert kept.gauges == {}
    assert kept.calls["f"].counts[0] == 3


def test_a_text_half_written_is_not_believed():
    board = Board(2)
    board.write(1, counted(1))
    board._memory[SLOT_BYTES + 12] ^= 255
    assert board.read(1) is None


def test_what_is_too_large_leaves_the_slot_as_it_was():
    board = Board(2)
    board.write(1, counted(1))
    assert not board.write(1, Snapshot(counters={"c" * SLOT_BYTES: {"": 1}}))
    assert board.read(1) == counted(1)


def test_there_are_no_more_slots_than_there_are():
    board = Board(2)
    assert board.take() == 1
    assert board.take() is None
