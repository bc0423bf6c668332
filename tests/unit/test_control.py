"""Control messages, and the bookkeeping of calls that asked for parts."""

from __future__ import annotations

import pytest

from juggler.broker import PendingCall
from juggler.broker.streams import Streams
from juggler.errors import InvalidMessage
from juggler.protocol.codec import StoredParts, StoredResult
from juggler.protocol.control import Control, decode_control, encode_control


class _Call(PendingCall):
    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.deadline = 0.0

    def on_stored(self, error):
        raise NotImplementedError

    def on_result(self, args, failed):
        raise NotImplementedError

    def on_expired(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("control", "text"),
    [
        (Control(cancel=["a", "b"]), b'{"cancel":["a","b"]}'),
        (Control(credit={"a": 7}), b'{"credit":{"a":7}}'),
        (Control(), b"{}"),
    ],
)
def test_control_messages_have_only_the_members_they_need(control, text):
    assert encode_control(control) == text
    assert decode_control(text) == control


def test_unknown_members_of_control_messages_are_ignored():
    assert decode_control(b'{"later":[1],"cancel":["a"]}') == Control(cancel=["a"])


MALFORMED = [b"", b"null", b"[]", b'{"cancel":"a"}', b'{"credit":{"a":"b"}}', b"\xff", b"[" * 9999]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_control_messages_are_refused(text):
    with pytest.raises(InvalidMessage):
        decode_control(text)


def test_a_stream_ends_with_its_callee_and_only_then():
    streams = Streams()
    calls = [_Call(name) for name in "abc"]
    for call in calls:
        streams.add(call, 5.0, StoredParts("all", 8), 1e9)
    assert streams.callees() == set()
    assert not streams.on_part(calls[0], StoredResult("a", seq=0, more=True, callee="one"), 10.0)
    assert streams.on_part(calls[1], StoredResult("b", b"1", seq=1, more=True, callee="two"), 11.0)
    assert streams.callees() == {"one", "two"}
    assert streams.taken_by(["one"]) == [calls[0]]
    assert [call.deadline for call in calls] == [15.0, 16.0, 0.0]
    streams.remove(calls[0])
    assert streams.taken_by(["one"]) == []
    assert not streams.on_part(calls[0], StoredResult("a", b"1", seq=1, more=True), 12.0)


def test_a_call_without_parts_has_a_callee_once_it_is_reported_and_keeps_its_deadline():
    streams = Streams()
    call = _Call("a")
    call.deadline = 7.0
    assert streams.callee_of(call) == ""
    for seq in (0, 0, 1):
        assert not streams.on_part(call, StoredResult("a", b"1", seq=seq, more=True, callee="one"), 10.0)
    assert (streams.callee_of(call), call.deadline) == ("one", 7.0)
    assert streams.stream_of(call) is None
    assert streams.hold(10.0) == streams.too_long(1e9) == []
    assert streams.taken_by(["one"]) == [call]
    streams.remove(call)
    assert streams.callees() == set()


def test_joined_parts_count_one_by_one():
    streams = Streams()
    call = _Call("a")
    streams.add(call, 5.0, StoredParts("all", 8), 1e9)
    assert streams.on_part(call, StoredResult("a", b"[1,[2],3]", seq=1, more=True, joined=True), 0.0)
    assert streams.on_part(call, StoredResult("a", b"4", seq=4, more=True), 0.0)
    with pytest.raises(InvalidMessage, match="expected part 5, got 6"):
        streams.on_part(call, StoredResult("a", b"6", seq=6, more=True), 0.0)
    with pytest.raises(InvalidMessage):
        streams.on_part(call, StoredResult("a", b"6", seq=5, more=True, joined=True), 0.0)
