"""The shared memory in which workers publish their metrics."""

from __future__ import annotations

import os

from juggler.process.metrics import Histogram, Snapshot
from juggler.process.metrics.shared import SLOT_BYTES, STALE, SharedMetrics, Slot


def counted(number: float) -> Snapshot:
    calls = {"f": Histogram([int(number)] + [0] * 15, number)}
    return Snapshot(counters={"c": {"": number}}, gauges={"g": {"": number}}, calls=calls)


def alive() -> bool:
    return True


def publishing(slot: Slot | None, number: float) -> Slot:
    assert slot is not None
    slot.start(lambda: counted(number))
    slot.publish()
    return slot


def test_a_worker_sees_what_others_publish():
    shared = SharedMetrics(4)
    first, second = (publishing(shared.take(alive), number) for number in (1, 2))
    assert first.with_others(counted(1)).counters == {"c": {"": 3}}
    assert second.with_others(Snapshot()).counters == {"c": {"": 1}}
    for slot in (first, second):
        slot.close()


def test_what_another_process_writes_is_seen_here():
    shared = SharedMetrics(4)
    shared.take(alive)
    child = os.fork()
    if not child:
        shared.write(1, counted(3))
        os._exit(0)
    os.waitpid(child, 0)
    assert shared.read(1) == counted(3)


def test_a_worker_that_has_ended_leaves_its_counters_alone():
    shared = SharedMetrics(4)
    slots = [publishing(shared.take(alive), number) for number in (1, 2)]
    slots[0].close()
    assert slots[1].with_others(counted(2)) == Snapshot(
        counters={"c": {"": 3}}, gauges={"g": {"": 2}}, calls={"f": Histogram([3] + [0] * 15, 3)}
    )
    slots[1].close()


def test_the_gauges_of_a_worker_that_was_killed_go_stale():
    now = [100.0]
    shared = SharedMetrics(4, clock=lambda: now[0])
    shared.take(alive)
    shared.write(1, counted(1))
    now[0] += STALE
    assert [snapshot.gauges for snapshot in shared.read_others(2)] == [{"g": {"": 1}}]
    now[0] += 1
    assert [(s.gauges, s.counters) for s in shared.read_others(2)] == [({}, {"c": {"": 1}})]


def test_the_counters_of_the_dead_are_kept_and_their_gauges_are_not():
    shared = SharedMetrics(2)
    for number in (1, 2):
        slot = shared.take(lambda: False)
        assert slot is not None
        shared.write(1, counted(number))
    shared.take(alive)
    (kept,) = shared.read_others(1)
    assert kept.counters == {"c": {"": 3}}
    assert kept.gauges == {}
    assert kept.calls["f"].counts[0] == 3
    assert shared.read(1) is None


def test_a_snapshot_half_written_is_ignored():
    shared = SharedMetrics(2)
    shared.write(1, counted(1))
    shared.memory[SLOT_BYTES + 20] ^= 255
    assert shared.read(1) is None


def test_what_is_too_large_leaves_the_slot_as_it_was():
    shared = SharedMetrics(2)
    shared.write(1, counted(1))
    assert not shared.write(1, Snapshot(counters={"c" * SLOT_BYTES: {"": 1}}))
    assert shared.read(1) == counted(1)


def test_slots_are_taken_once_while_their_workers_live():
    lives = [True]
    shared = SharedMetrics(2)
    assert shared.take(lambda: lives[0]) is not None
    assert shared.take(alive) is None
    lives[0] = False
    assert shared.take(alive) is not None
