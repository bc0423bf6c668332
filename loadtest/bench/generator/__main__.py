"""The load generator: ``python -m loadtest.bench.generator``, started by `loadtest.bench.harness.load`.

It reads its spec as a line of JSON, prints ``ready`` when it is connected, and obeys lines: ``go`` (begin), ``flows?``
(print ``yes`` when every connection has had a response), ``mark`` (count from now on), ``stop`` (print the counts and
exit).
"""

from __future__ import annotations

import gc
import json
import sys
from time import monotonic_ns
from typing import Any

from loadtest.bench.generator.loop import Lines, Loop, Lost
from loadtest.bench.generator.nats_roles import NATS_ROLES
from loadtest.bench.generator.redis_roles import REDIS_ROLES, WORKER_ROLES
from loadtest.bench.generator.roles import ROLES
from loadtest.bench.generator.socketio_roles import SOCKETIO_ROLES
from loadtest.bench.generator.wire import UnknownMessage

PROTOCOLS: dict[str, dict[str, Any]] = {
    "juggler": {**ROLES, **REDIS_ROLES},
    "nats": NATS_ROLES,
    "redis": WORKER_ROLES,
    "socketio": SOCKETIO_ROLES,
}


class Generator:
    """Runs one role."""

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
        self._role = PROTOCOLS[spec["protocol"]][spec["role"]](self._loop, spec, lambda: print("ready", flush=True))
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
    """Run until ``stop``, or until standard input is closed."""
    # Nothing here creates reference cycles, and a collection would show in the latencies.
    gc.disable()
    try:
        Generator().run()
    except (Lost, UnknownMessage, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
