"""Which queues may have calls: each once, in the order in which they were added."""

from __future__ import annotations

from juggler.broker.redis.many_uris.pending_queues import PendingQueues


def test_queues_are_taken_in_the_order_in_which_they_were_added():
    pending = PendingQueues([b"a", b"b", b"c"])
    pending.add([b"c", b"a"])
    pending.add([b"b"])
    assert pending.take(2) == [b"c", b"a"]
    assert pending.take(2) == [b"b"]
    assert pending.take(2) == []


def test_a_queue_is_in_the_set_once_until_it_is_taken():
    pending = PendingQueues([b"a", b"b"])
    pending.add([b"a", b"b", b"a"])
    assert len(pending) == 2
    assert pending.take(1) == [b"a"]
    pending.add([b"a"])
    assert pending.take(9) == [b"b", b"a"]


def test_unknown_keys_are_ignored():
    pending = PendingQueues([b"a"])
    pending.add([b"b"])
    assert len(pending) == 0
