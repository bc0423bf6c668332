"""All scenarios, for locust: ``locust -f loadtest/locustfile.py --host ws://127.0.0.1:9000/ws [CLASS ...]``.

Name user classes, or tags with ``--tags``; without either it is the mixed scenario. docs/load-testing.md tells more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# locust has imported itself, and looks for the rest where it was started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from locust import events

from loadtest.locust import options  # noqa: F401  # adds them
from loadtest.locust.choice import chosen
from loadtest.locust.scenarios.fanout import FanoutListener, FanoutPublisher  # noqa: F401
from loadtest.locust.scenarios.idle import IdleUser  # noqa: F401
from loadtest.locust.scenarios.mixed import MixedUser  # noqa: F401
from loadtest.locust.scenarios.rpc import RpcClosed, RpcRate  # noqa: F401
from loadtest.locust.scenarios.slow import QuickListener, SlowPublisher, SlowReader  # noqa: F401
from loadtest.locust.scenarios.storm import StormUser  # noqa: F401


@events.init.add_listener
def _choose(environment: Any, **_: Any) -> None:
    given = environment.parsed_options
    if not given.class_picker and not given.worker:
        environment.user_classes = chosen(environment.user_classes, given.user_classes, given.tags or ())
