"""The decisions of a supervisor, with a clock of the test's own and without processes."""

from __future__ import annotations

import signal
from itertools import cycle

import pytest

from juggler.callee.fleet import (
    KILL_AFTER,
    SILENCE,
    STABLE_AFTER,
    STUCK_AFTER,
    Abort,
    Fleet,
    Kill,
    Log,
    Retire,
    Say,
    Spawn,
    Stop,
)
from juggler.callee.supervisor_messages import Report, Serving
from juggler.callee.wear import UNLIMITED, WearLimits
from juggler.process.metrics import Snapshot

GRACE = 3.0
SERVING = Serving(["a", "b"], {"greenlet": 7}, "redis://host")


def report(reason=None, requests=0):
    return Report(reason, Snapshot(counters={"requests": {"a": requests}}, gauges={"running": {"a": 1}}))


class Driver:
    """A fleet whose processes are played by the test. Process N has the pid 100 + N."""

    def __init__(self, processes=2, limits=UNLIMITED):
        self.now = 1000.0
        randoms = cycle([0.0, 0.5])
        self.fleet = Fleet(processes, GRACE, lambda: iter([0.5, 1.0, 2.0, 4.0]), limits, lambda: next(randoms))
        self.cannot_start = False
        self.done = []
        self.fleet.start(self.now)
        self.act()

    def act(self):
        """Carry out what was decided and keep it in `done`."""
        while actions := self.fleet.take_actions():
            self.done += actions
            for action in actions:
                if isinstance(action, Spawn):
                    if self.cannot_start:
                        self.fleet.spawn_failed(action.number, OSError("no memory"), self.now)
                    else:
                        self.fleet.spawned(action.number, 100 + action.number)

    def take(self):
        """Return what was decided since the last look, log lines as text."""
        self.act()
        done, self.done = self.done, []
        return [f"{each.level} {each.line}" if isinstance(each, Log) else each for each in done]

    def after(self, seconds):
        """Let time pass."""
        self.now += seconds
        self.fleet.tick(self.now)
        return self.take()

    def serve(self, *numbers):
        for number in numbers:
            self.fleet.received(number, [SERVING, report()], self.now)
        return self.after(0)

    def report(self, number, calls=0, memory=None):
        self.fleet.received(number, [Report(None, Snapshot(), calls, memory)], self.now)
        return self.after(0)

    def exit(self, **codes):
        self.fleet.exited({int(name[1:]): code for name, code in codes.items()}, self.now)
        return self.take()

    def stop(self, signum=signal.SIGTERM):
        self.fleet.stop(signum, self.now)
        return self.take()

    def reload(self):
        self.fleet.reload(self.now)
        return self.take()

    @property
    def reason(self):
        return self.fleet.unhealthy_reason(self.now)


@pytest.fixture
def starting():
    """Two processes that do not serve yet."""
    driver = Driver()
    assert driver.take() == [Spawn(1), Spawn(2)]
    return driver


@pytest.fixture
def serving(starting):
    """Two processes that serve."""
    starting.serve(1, 2)
    return starting


# Start


def test_it_says_once_that_all_serve(starting):
    assert starting.serve(1) == []
    line = "serving a, b, 2 processes of 7 concurrent calls, from redis://host"
    assert starting.serve(2) == [Say(line)]
    assert starting.serve(1, 2) == []


def test_a_wrong_option_stops_all_before_the_first_serves(starting):
    assert starting.exit(p1=2) == [Stop(2)]
    assert starting.exit(p2=2) == []
    assert (starting.fleet.is_done, starting.fleet.exit_code) == (True, 2)


def test_wrong_options_found_together_are_one_end(starting):
    assert starting.exit(p1=2, p2=2) == []
    assert (starting.fleet.is_done, starting.fleet.exit_code) == (True, 2)


def test_a_process_that_cannot_be_started_is_tried_again():
    driver = Driver(processes=1)
    driver.take()
    driver.cannot_start = True
    driver.exit(p1=3)
    assert driver.after(0.5) == [Spawn(2), 'error supervisor: cannot start a process error="no memory"']
    assert driver.after(0.9) == []
    driver.cannot_start = False
    assert driver.after(0.1) == [Spawn(3)]


# Replacing


def test_old_processes_that_die_together_are_each_replaced(serving):
    assert serving.exit(p1=3, p2=-9) == [
        'error supervisor: process exited pid=101 status="exit code 3" restart_in=0.5',
        'error supervisor: process exited pid=102 status="signal 9" restart_in=1.0',
    ]
    assert serving.reason == "no process is running"
    assert serving.after(0.4) == []
    assert serving.after(0.1) == [Spawn(3)]
    assert serving.after(0.5) == [Spawn(4)]


def test_a_usage_error_after_the_start_is_an_exit_like_others(serving):
    serving.exit(p1=2)
    assert serving.after(0.5) == [Spawn(3)]


def test_pauses_grow_until_a_process_has_run_for_a_while(serving):
    serving.exit(p1=1)
    assert serving.after(0.5) == [Spawn(3)]
    serving.exit(p3=1)
    assert serving.after(0.5) == []
    assert serving.after(0.5) == [Spawn(4)]
    serving.after(STABLE_AFTER)
    serving.exit(p4=1)
    assert serving.after(0.5) == [Spawn(5)]


# Stopping


def test_a_signal_stops_all_and_the_exit_code_is_0(serving):
    assert serving.stop() == [Stop(1), Stop(2)]
    assert serving.reason == "stopping"
    assert not serving.fleet.is_done
    assert serving.exit(p1=0, p2=0) == []
    assert (serving.fleet.is_done, serving.fleet.exit_code) == (True, 0)


def test_abandoned_calls_are_in_the_exit_code(serving):
    serving.stop()
    assert serving.exit(p1=1, p2=0) == []
    assert serving.fleet.exit_code == 1


def test_a_crash_while_stopping_is_logged_and_in_the_exit_code(serving):
    serving.stop()
    assert serving.exit(p1=-11, p2=0) == [
        'error supervisor: process exited while it was stopping pid=101 status="signal 11"'
    ]
    assert serving.fleet.exit_code == 1


def test_a_process_that_had_not_started_may_exit_as_it_likes(starting):
    starting.stop()
    assert starting.exit(p1=2, p2=-9) == []
    assert (starting.fleet.is_done, starting.fleet.exit_code) == (True, 0)


def test_nothing_is_started_once_it_stops(serving):
    serving.exit(p1=1)
    assert serving.stop() == [Stop(2)]
    assert serving.after(1) == []
    assert serving.reload() == []
    serving.exit(p2=0)
    assert serving.fleet.is_done


def test_a_process_that_does_not_stop_is_killed(serving):
    serving.stop()
    serving.exit(p1=0)
    assert serving.after(GRACE + KILL_AFTER - 0.1) == []
    expected = ["error supervisor: process killed, it did not stop in time pid=102", Kill(2)]
    assert serving.after(0.1) == expected
    assert serving.after(0.1) == []
    assert serving.after(KILL_AFTER) == expected


def test_a_second_signal_aborts_with_it(serving):
    serving.stop(signal.SIGTERM)
    assert serving.stop(signal.SIGINT) == [Abort(signal.SIGINT)]


# Reloading


def test_old_processes_stop_when_all_new_ones_serve(serving):
    assert serving.reload() == ["info supervisor: reloading", Spawn(3), Spawn(4)]
    assert serving.serve(3) == []
    assert serving.serve(4) == ["info supervisor: new processes serve, stopping the old ones", Stop(1), Stop(2)]
    assert serving.reason is None
    assert serving.exit(p1=0, p2=0) == []
    assert not serving.fleet.is_done


def test_calls_that_old_processes_abandon_are_not_in_the_exit_code(serving):
    serving.reload()
    serving.serve(3, 4)
    serving.exit(p1=1, p2=0)
    serving.stop()
    serving.exit(p3=0, p4=0)
    assert serving.fleet.exit_code == 0


def test_new_processes_that_die_together_are_no_old_ones(serving):
    serving.reload()
    failed = "error supervisor: reload failed, the old processes keep serving pid={} status={}"
    assert serving.exit(p3=3, p4=3) == [failed.format(103, '"exit code 3"'), failed.format(104, '"exit code 3"')]
    assert serving.reason is None
    assert serving.after(60) == []


def test_a_new_process_that_dies_takes_the_other_new_ones_with_it(serving):
    serving.reload()
    serving.serve(3)
    assert serving.exit(p4=2)[1:] == [Stop(3)]
    assert serving.exit(p3=0) == []


def test_a_reload_without_memory_keeps_the_old_processes(serving):
    serving.cannot_start = True
    said = serving.reload()
    assert said.count('error supervisor: cannot start a process error="no memory"') == 2
    assert Stop(1) not in said
    assert serving.serve(1, 2) == []
    assert serving.reason is None


def test_a_reload_during_a_reload_comes_after_it(serving):
    serving.reload()
    assert serving.reload() == []
    done = serving.serve(3, 4)
    assert done[1:] == [Stop(1), Stop(2), "info supervisor: reloading", Spawn(5), Spawn(6)]
    assert serving.serve(5, 6)[1:] == [Stop(3), Stop(4)]


def test_a_reload_during_a_failed_reload_comes_after_it(serving):
    serving.reload()
    serving.reload()
    assert serving.exit(p3=1)[1:] == [Stop(4), "info supervisor: reloading", Spawn(5), Spawn(6)]


def test_a_reload_replaces_processes_that_wait_for_their_restart(serving):
    serving.exit(p1=1)
    serving.reload()
    serving.serve(3, 4)
    assert serving.after(1) == []


def test_a_stop_during_a_reload_stops_both_generations(serving):
    serving.reload()
    assert serving.stop() == [Stop(1), Stop(2), Stop(3), Stop(4)]


# Recycling


@pytest.fixture
def limited():
    """Two processes that serve, limited to 100 and 90 calls, and to 1,000 and 900 MB."""
    driver = Driver(limits=WearLimits(100, 1_000_000_000))
    driver.serve(1, 2)
    driver.take()
    return driver


def recycling(number, reason):
    return f'info supervisor: recycling a process pid={100 + number} reason="{reason}"'


def test_a_worn_process_is_retired_when_its_replacement_serves(limited):
    assert limited.report(1, calls=99) == []
    assert limited.report(1, calls=100) == [recycling(1, "100 calls"), Spawn(3)]
    assert limited.report(1, calls=120) == []
    assert limited.reason is None
    assert limited.serve(3) == [Retire(1)]
    assert limited.reason is None
    assert limited.exit(p1=0) == []
    assert limited.report(3, calls=99) == []


def test_a_process_that_uses_too_much_memory_is_replaced(limited):
    assert limited.report(2, memory=899_000_000) == []
    assert limited.report(2, memory=901_000_000) == [recycling(2, "901 MB"), Spawn(3)]


def test_processes_have_different_limits(limited):
    assert limited.report(1, calls=95) == []
    assert limited.report(2, calls=95) == [recycling(2, "95 calls"), Spawn(3)]


def test_one_process_is_replaced_at_a_time(limited):
    limited.report(1, calls=100)
    assert limited.report(2, calls=1_000) == []
    assert limited.serve(3) == [Retire(1), recycling(2, "1,000 calls"), Spawn(4)]


def test_no_more_processes_are_retired_than_there_are_processes(limited):
    for number in (1, 2):
        limited.report(number, calls=100)
        limited.serve(number + 2)
    assert limited.report(3, calls=100) == []
    assert limited.exit(p1=0) == []
    assert limited.after(0) == [recycling(3, "100 calls"), Spawn(5)]


def test_a_retired_process_has_the_time_it_takes(limited):
    limited.report(1, calls=100)
    limited.serve(3)
    for _ in range(10):
        assert limited.after(STUCK_AFTER) == []
        limited.report(1)
    assert limited.after(STUCK_AFTER + 1) == ["error supervisor: process killed, it is stuck pid=101", Kill(1)]
    assert limited.after(1) == []


def test_a_replacement_that_exits_leaves_the_old_process_serving(limited):
    limited.report(1, calls=100)
    said = 'error supervisor: recycling failed, the old process keeps serving pid=103 status="exit code 2" retry_in={}'
    assert limited.exit(p3=2) == [said.format(0.5)]
    assert limited.reason is None
    assert limited.after(0.4) == []
    assert limited.after(0.1) == [recycling(1, "100 calls"), Spawn(4)]
    assert limited.exit(p4=2) == [said.replace("103", "104").format(1.0)]


def test_a_replacement_without_memory_is_tried_again(limited):
    limited.cannot_start = True
    assert limited.report(1, calls=100)[-1] == 'error supervisor: cannot start a process error="no memory"'
    limited.cannot_start = False
    assert limited.after(0.4) == []
    assert limited.after(0.1) == [recycling(1, "100 calls"), Spawn(4)]


def test_a_worn_process_that_exits_is_replaced_by_its_replacement(limited):
    limited.report(1, calls=100)
    assert limited.exit(p1=-9) == ['error supervisor: process exited pid=101 status="signal 9"']
    assert limited.reason == "process 103: starting"
    assert limited.after(60) == []
    assert limited.serve(3) == []
    limited.report(2)
    assert limited.reason is None


def test_a_worn_process_that_exits_with_its_replacement_is_restarted(limited):
    limited.report(1, calls=100)
    limited.exit(p1=1, p3=1)
    assert limited.after(0.5) == [Spawn(4)]


def test_a_reload_includes_the_process_to_be_replaced(limited):
    limited.report(1, calls=100)
    assert limited.reload() == ["info supervisor: reloading", Stop(3), Spawn(4), Spawn(5)]
    assert limited.report(2, calls=100) == []
    assert limited.serve(4, 5)[1:] == [Stop(1), Stop(2)]
    assert limited.exit(p1=0, p2=0, p3=0) == []


def test_a_stop_includes_replacements_and_retired_processes(limited):
    limited.report(1, calls=100)
    limited.serve(3)
    limited.report(2, calls=100)
    assert limited.stop() == [Stop(2), Stop(3), Stop(4), Stop(1)]
    limited.exit(p2=0, p3=0, p4=0)
    assert not limited.fleet.is_done
    assert limited.after(GRACE + KILL_AFTER)[-1] == Kill(1)
    limited.exit(p1=-9)
    assert (limited.fleet.is_done, limited.fleet.exit_code) == (True, 1)


def test_counts_of_retired_processes_are_kept(limited):
    limited.fleet.received(1, [Report(None, report(requests=3).snapshot, 100)], limited.now)
    limited.after(0)
    limited.serve(3)
    assert limited.fleet.snapshot().counters == {"requests": {"a": 3}}
    limited.exit(p1=0)
    assert limited.fleet.snapshot().counters == {"requests": {"a": 3}}


# Health and metrics


def test_it_is_unhealthy_while_processes_start(starting):
    assert starting.reason == "process 101: starting; process 102: starting"
    starting.serve(1)
    assert starting.reason == "process 102: starting"
    starting.serve(2)
    assert starting.reason is None


def test_it_is_unhealthy_when_a_process_is(serving):
    serving.fleet.received(2, [report("cannot take calls")], serving.now)
    assert serving.reason == "process 102: cannot take calls"
    serving.fleet.received(2, [report()], serving.now)
    assert serving.reason is None


def test_a_silent_process_is_unhealthy(serving):
    serving.after(SILENCE)
    assert serving.reason is None
    serving.fleet.received(1, [report()], serving.now)
    serving.after(1)
    assert serving.reason == "process 102: no report for 11 s"


def test_counts_of_processes_that_have_exited_are_kept(serving):
    serving.fleet.received(1, [report(requests=3)], serving.now)
    serving.fleet.received(2, [report(requests=4)], serving.now)
    serving.exit(p1=1)
    snapshot = serving.fleet.snapshot()
    assert snapshot.counters == {"requests": {"a": 7}}
    assert snapshot.gauges == {"running": {"a": 1}}
