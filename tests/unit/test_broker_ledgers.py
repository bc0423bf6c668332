"""The ledgers of a process: each entry is found by both of its keys, and leaves nothing behind."""

from __future__ import annotations

from uuid import UUID

import pytest

from juggler.broker import client_of, is_from_juggler
from juggler.broker.ledgers import CallLedger, SubscriptionLedger
from juggler.errors import BrokerUnavailable
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber


def add(ledger: CallLedger, owner: object, deadline: float = 10.0) -> RecordedCall:
    call = RecordedCall()
    call.owner = owner
    ledger.add(call, "f", deadline)
    return call


def test_identifiers_are_uuids_in_order_that_name_the_owner() -> None:
    ledger = CallLedger()
    ledger.name = "012345678"
    owners = ["me", "other", "me"]

    ids = [add(ledger, owner).call_id for owner in owners]

    assert ids == sorted(ids)
    assert ledger.latest == ids[-1]
    assert [UUID(each).version for each in ids] == [8, 8, 8]
    assert all(map(is_from_juggler, ids))
    clients = [client_of("conn", each) for each in ids]
    assert clients[0] == clients[2] != clients[1]
    assert all(client.endswith(ledger.name) for client in clients)


def test_identifiers_stay_in_order_beyond_16_bits() -> None:
    ledger = CallLedger()
    ids = []
    for _ in range(70_000):
        call = add(ledger, "me")
        ids.append(call.call_id)
        ledger.remove(call)

    assert ids == sorted(set(ids))


def test_a_call_is_found_until_it_is_removed() -> None:
    ledger = CallLedger()
    call = add(ledger, "me")

    assert ledger.get(call.call_id) is call
    assert call in ledger
    assert (ledger.in_flight("me"), len(ledger)) == (1, 1)
    assert ledger.remove(call)
    assert not ledger.remove(call)
    assert ledger.get(call.call_id) is None
    assert (ledger.in_flight("me"), len(ledger)) == (0, 0)


def test_an_owner_that_has_gone_takes_its_calls_along_and_no_others() -> None:
    ledger = CallLedger()
    mine, other = [add(ledger, "me") for _ in range(3)], add(ledger, "other")

    ledger.abandon("me")
    ledger.abandon("me")

    assert [call in ledger for call in (*mine, other)] == [False, False, False, True]
    assert (ledger.in_flight("me"), ledger.in_flight("other"), len(ledger)) == (0, 1, 1)


def test_only_stored_calls_are_overdue() -> None:
    ledger = CallLedger()
    early, late, unstored = add(ledger, "me", 1.0), add(ledger, "me", 2.0), add(ledger, "me", 1.0)
    early.stored = late.stored = True

    assert ledger.overdue(0.9) == []
    assert ledger.overdue(1.0) == [early]
    assert unstored not in ledger.overdue(9.0)


def test_a_call_can_be_used_again() -> None:
    ledger = CallLedger()
    call = add(ledger, "me")
    call.stored, call.early_result = True, (b"1", None)
    ledger.remove(call)

    ledger.add(call, "f", 5.0)

    assert (call.stored, call.early_result, call.deadline) == (False, None, 5.0)
    assert ledger.get(call.call_id) is call


def test_subscribers_wait_for_the_confirmation_of_a_topic() -> None:
    ledger: SubscriptionLedger[str] = SubscriptionLedger()
    first, second, third = Outcome(), Outcome(), Outcome()
    ledger.add("c", RecordedSubscriber(), first)
    ledger.add("c", RecordedSubscriber(), second)
    assert (first.told, second.told, ledger.unconfirmed()) == ([], [], ["c"])

    ledger.confirm("c")

    ledger.add("c", RecordedSubscriber(), third)
    assert first.told == second.told == third.told == [None]
    assert ledger.unconfirmed() == []


def test_an_error_removes_new_subscriptions_and_keeps_earlier_ones() -> None:
    ledger: SubscriptionLedger[str] = SubscriptionLedger()
    earlier, new = RecordedSubscriber(), RecordedSubscriber()
    ledger.add("c", earlier, Outcome())
    ledger.confirm("c")
    ledger.unconfirm(["c"])
    again, refused = Outcome(), Outcome()
    ledger.add("c", earlier, again)
    ledger.add("c", new, refused)
    error = BrokerUnavailable("away")

    ledger.fail("c", error)

    assert again.told == refused.told == [error]
    assert (ledger.has("c", earlier), ledger.has("c", new)) == (True, False)
    assert (ledger.count(earlier), ledger.count(new)) == (1, 0)


def test_a_topic_goes_with_its_last_subscriber() -> None:
    ledger: SubscriptionLedger[str] = SubscriptionLedger()
    one, two = RecordedSubscriber(), RecordedSubscriber()
    for subscriber in (one, two):
        ledger.add("c", subscriber, Outcome(), confirmed=True)
    ledger.add("d", one, Outcome(), confirmed=True)

    assert not ledger.remove("c", one)
    assert ledger.remove("c", two)
    assert not ledger.remove("c", two)
    assert ledger.remove_all(one) == ["d"]
    assert (len(ledger), ledger.count(one), ledger.count(two)) == (0, 0, 0)


def test_leaving_a_topic_ends_the_wait_for_it() -> None:
    ledger: SubscriptionLedger[str] = SubscriptionLedger()
    leaving, staying = Outcome(), Outcome()
    subscriber = RecordedSubscriber()
    ledger.add("c", subscriber, leaving)
    ledger.add("c", RecordedSubscriber(), staying)

    ledger.remove("c", subscriber)

    assert (leaving.told, staying.told) == ([None], [])


@pytest.mark.parametrize("confirmed", [False, True])
def test_unconfirming_reports_whether_events_may_be_lost(confirmed: bool) -> None:
    ledger: SubscriptionLedger[str] = SubscriptionLedger()
    ledger.add("c", RecordedSubscriber(), Outcome(), confirmed=confirmed)

    assert ledger.unconfirm(["c"]) is confirmed
    assert not ledger.unconfirm(["c"])
