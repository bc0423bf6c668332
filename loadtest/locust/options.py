"""Options of the scenarios, for the command line, the environment and the web UI. Import it before locust parses."""

from __future__ import annotations

from typing import Any

from locust import events

OPTIONS: tuple[tuple[str, type, float, str], ...] = (
    ("call-rate", float, 10.0, "RpcRate: calls a second of each user"),
    ("event-rate", float, 10.0, "FanoutPublisher, SlowPublisher: events a second"),
    ("size", int, 100, "Approximate size of arguments and events in bytes"),
    ("channels", int, 5, "MixedUser: number of channels"),
    ("storm-period", float, 3.0, "StormUser: seconds between storms"),
)


@events.init_command_line_parser.add_listener
def _add(parser: Any, **_: Any) -> None:
    for name, kind, default, text in OPTIONS:
        variable = f"JUGGLER_LOAD_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", type=kind, default=default, env_var=variable, help=text)
