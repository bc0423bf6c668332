"""A process that makes load: ``python -m loadtest.bench.generator``, run by `loadtest.bench.load`.

It reads what it is to do as a line of JSON, prints ``ready``, and obeys the lines ``go``, ``flows?`` (print ``yes``
when all is under way), ``mark`` (count from now on) and ``stop`` (print what has been counted, and end).
"""

from __future__ import annotations

import gc
import json
import sys
from time import monotonic_ns
from typing import Any

from loadtest.bench.ladder_roles import LADDER_ROLES
from loadtest.bench.loop import Lines, Loop, Lost
from loadtest.bench.roles import ROLES
from loadtest.bench.wire import UnknownMessage


class Generator:
    """Does what it is told to, in one role."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._began_ns = 0
        self._role: Any = None
        Lines(self._loop, sys.stdin.fileno(), self._obey, self._loop.stop)

    def run(self) -> None:
        self._loop.run()

    def _obey(self, line: str) -> None:
        if self._role is None:
            self._prepare(json.loads(line))
        elif line == "go":
            self._role.go()
        elif line == "flows?":
            print("yes" if self._role.flows() else "no", flush=True)
        elif line == "mark":
            self._role.mark()
            self._began_ns = monotonic_ns()
        elif line == "stop":
            self._report()
            self._loop.stop()

    def _prepare(self, spec: dict[str, Any]) -> None:
        roles: dict[str, Any] = {**ROLES, **LADDER_ROLES}
        self._role = roles[spec["role"]](self._loop, spec, lambda: print("ready", flush=True))
        self._role.prepare()

    def _report(self) -> None:
        role = self._role
        report = {
            "seconds": (monotonic_ns() - self._began_ns) / 1e9,
            "count": role.count,
            "latency": role.latency.to_json(),
        }
        print(json.dumps(report), flush=True)


def main() -> None:
    """Run until told to stop, or until nobody is there to tell."""
    # Nothing here makes cycles, and a collection would stand in the latencies.
    gc.disable()
    try:
        Generator().run()
    except (Lost, UnknownMessage, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
