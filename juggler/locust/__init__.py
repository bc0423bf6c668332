"""Load tests of your own application with locust; see docs/load-testing.md. Install ``juggler[load]``.

::

    from locust import between, task

    from juggler.locust import JugglerUser


    class Shopper(JugglerUser):
        wait_time = between(1, 3)

        @task
        def price(self):
            self.client.call("shop.price", "tea")

Each name is imported when it is first used: the book and the ledger work without locust.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from juggler.locust.client import RecordingClient, stamped
    from juggler.locust.ledger import Ledger
    from juggler.locust.shapes import Spike, Steps
    from juggler.locust.user import JugglerUser

__all__ = ["JugglerUser", "Ledger", "RecordingClient", "Spike", "Steps", "stamped"]

_HOMES = {
    "JugglerUser": "juggler.locust.user",
    "Ledger": "juggler.locust.ledger",
    "RecordingClient": "juggler.locust.client",
    "Spike": "juggler.locust.shapes",
    "Steps": "juggler.locust.shapes",
    "stamped": "juggler.locust.client",
}
_NEEDS_LOCUST = ("juggler.locust.shapes", "juggler.locust.user")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] in _NEEDS_LOCUST:
        _check_locust()
    return getattr(import_module(_HOMES[name]), name)


def _check_locust() -> None:
    """Import locust, which monkey-patches, before anything of juggler's client.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import_module("locust")
    except ModuleNotFoundError as error:
        if error.name != "locust":
            raise
        raise ImportError("juggler.locust: locust is not installed: pip install 'juggler[load]'") from None
