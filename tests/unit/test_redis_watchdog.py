"""The count of lost connections is bounded, and loses nothing."""

from __future__ import annotations

from juggler.broker.redis.watchdog import MAX_NAMES, OTHER, Watchdog


def test_losses_of_many_nodes_are_counted_together_beyond_a_number_of_names():
    watchdog = Watchdog()
    for _ in range(2):
        for number in range(MAX_NAMES + 50):
            watchdog.count_loss(f"commands 10.0.0.1:{number}")
    assert watchdog.losses["commands 10.0.0.1:0"] == 2
    assert watchdog.losses[OTHER] == 100
    assert watchdog.losses.total() == 2 * (MAX_NAMES + 50)
    assert len(watchdog.losses) == MAX_NAMES + 1
