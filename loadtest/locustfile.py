"""All scenarios, for locust: ``locust -f loadtest/locustfile.py --host ws://127.0.0.1:9000/ws [CLASS ...]``.

Name user classes, or tags with ``--tags``. Default: the mixed scenario. See docs/load-testing.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# locust imports this file by its path; the package may not be importable from the current directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from locust import events

from loadtest.locust.scenarios.burst import BurstListener, BurstPublisher  # noqa: F401
from loadtest.locust.scenarios.fanout import FanoutListener, FanoutPublisher  # noqa: F401
from loadtest.locust.scenarios.idle import IdleUser  # noqa: F401
from loadtest.locust.scenarios.mixed import MixedUser  # noqa: F401
from loadtest.locust.scenarios.rpc import RpcClosed, RpcRate  # noqa: F401
from loadtest.locust.scenarios.slow import QuickListener, SlowPublisher, SlowReader  # noqa: F401
from loadtest.locust.scenarios.storm import StormUser  # noqa: F401
from loadtest.locust.user_selection import select_users

OPTIONS: tuple[tuple[str, type, float, str], ...] = (
    ("call-rate", float, 10.0, "RpcRate: calls a second of each user"),
    ("event-rate", float, 10.0, "FanoutPublisher, SlowPublisher: events a second"),
    ("burst", int, 600, "BurstPublisher: events at once"),
    ("size", int, 100, "Approximate size of arguments and events in bytes"),
    ("channels", int, 5, "MixedUser: number of channels"),
    ("storm-period", float, 3.0, "StormUser: seconds between storms"),
)


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: Any) -> None:
    for name, kind, default, text in OPTIONS:
        variable = f"JUGGLER_LOAD_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", type=kind, default=default, env_var=variable, help=text)


@events.init.add_listener
def _select(environment: Any, **_: Any) -> None:
    given = environment.parsed_options
    if not given.class_picker and not given.worker:
        environment.user_classes = select_users(environment.user_classes, given.user_classes, given.tags or ())
