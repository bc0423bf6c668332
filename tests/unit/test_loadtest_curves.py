"""juggler.locust.curves and user_selection: number and selection of users."""

from __future__ import annotations

from juggler.locust.curves import spike, steps
from loadtest.locust.user_selection import select_users


def test_steps_are_equal_and_reach_all_users():
    assert [steps(second, 10, 50.0) for second in (0, 9.9, 10, 20, 30, 40, 49.9)] == [2, 2, 4, 6, 8, 10, 10]
    assert steps(50.0, 10, 50.0) is None
    assert [steps(second, 3, 5.0) for second in range(5)] == [1, 2, 2, 3, 3]


def test_a_spike_is_in_the_middle():
    assert [spike(second, 50, 30.0) for second in (0, 9.9, 10, 19.9, 20, 29.9)] == [5, 5, 50, 50, 5, 5]
    assert spike(30.0, 50, 30.0) is None
    assert spike(0, 3, 30.0) == 1


def task(*tags):
    def run(user):
        """Do nothing."""

    if tags:
        run.locust_tag_set = set(tags)
    return run


class MixedUser:
    tasks = [task("mixed")]  # noqa: RUF012


class Rate:
    tasks = [task("rpc", "rate")]  # noqa: RUF012


class Own:
    tasks = [task(), task("rpc")]  # noqa: RUF012


ALL = [MixedUser, Rate, Own]


def test_the_mixed_scenario_is_the_default():
    assert select_users(ALL, [], []) == [MixedUser]


def test_named_classes_run():
    assert select_users([Rate], ["Rate"], []) == [Rate]


def test_tags_leave_out_classes_without_such_tasks():
    assert select_users(ALL, [], ["rpc"]) == [Rate, Own]
    assert select_users(ALL, [], ["rate", "mixed"]) == [MixedUser, Rate]
    assert select_users(ALL, [], ["none"]) == []
