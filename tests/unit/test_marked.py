"""Which lists may have something: each once, in the order in which that became known."""

from __future__ import annotations

from juggler.broker.redis.marked import Marked


def test_they_come_in_the_order_in_which_they_were_marked():
    marked = Marked([b"a", b"b", b"c"])
    marked.mark([b"c", b"a"])
    marked.mark([b"b"])
    assert marked.take(2) == [b"c", b"a"]
    assert marked.take(2) == [b"b"]
    assert marked.take(2) == []


def test_each_is_there_once_until_it_is_taken():
    marked = Marked([b"a", b"b"])
    marked.mark([b"a", b"b", b"a"])
    assert len(marked) == 2
    assert marked.take(1) == [b"a"]
    marked.mark([b"a"])
    assert marked.take(9) == [b"b", b"a"]


def test_others_are_not_ours():
    marked = Marked([b"a"])
    marked.mark([b"b"])
    assert len(marked) == 0
