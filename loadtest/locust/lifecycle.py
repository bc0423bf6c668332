"""A ledger for each of locust's tests: it begins and ends with the test, and its faults are failed requests."""

from __future__ import annotations

from typing import Any

from locust import events

from loadtest.locust.ledger import Ledger


class CountsDisagree(Exception):
    """What was counted cannot be. The text says what, and how often."""


def of(environment: Any) -> Ledger:
    """Return the ledger of the test that runs, or of the one that has ended; an empty one before the first."""
    if not hasattr(environment, "juggler"):
        environment.juggler = Ledger()
    ledger: Ledger = environment.juggler
    return ledger


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    environment.juggler = Ledger()


@events.test_stopping.add_listener
def _stopping(environment: Any, **_: Any) -> None:
    of(environment).stopping = True


@events.test_stop.add_listener
def _end(environment: Any, **_: Any) -> None:
    ledger = of(environment)
    ledger.finish()
    # As failed requests they are in the report, reach a master, and make locust's exit code 1.
    for line in ledger.results:
        environment.events.request.fire(
            request_type="CHECK", name="counts", response_time=None, response_length=0, exception=CountsDisagree(line)
        )
    if not ledger.results and ledger.book.tally.connections:
        environment.events.request.fire(request_type="CHECK", name="counts", response_time=None, response_length=0)
