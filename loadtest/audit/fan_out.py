"""A burst of events to very many subscribers of one server: each has to receive all of them, without a gap.

``python -m loadtest.audit.fan_out URL [--subscribers 1000] [--burst 600]`` prints the violations, and exits with 1 if
there are any.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import uuid  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from math import inf  # noqa: E402

import gevent  # noqa: E402

from loadtest.audit.accounts import GAPS, Accounts  # noqa: E402
from loadtest.audit.client import AuditClient  # noqa: E402

SUBSCRIBERS = 1000
BURST = 600
READ_PAUSE = 0.05
POLL = 0.1

STALL = 15.0
"""Seconds without an event after which those that are missing count as lost."""


def fan_out(url: str, subscribers: int = SUBSCRIBERS, burst: int = BURST) -> Accounts:
    """Publish events at once, wait for their arrival, and return the accounts, already judged.

    Args:
        url: URL of the server.
        subscribers: number of connections that subscribe.
        burst: number of events.

    Raises:
        OSError: a client could not connect.
    """
    accounts = Accounts(max_latency=inf)
    channel = f"fan.{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        clients = [stack.enter_context(AuditClient(url, accounts, READ_PAUSE)) for _ in range(subscribers)]
        publisher = stack.enter_context(AuditClient(url, accounts))
        publisher.wait(publisher.subscribe(GAPS), *(client.subscribe(channel) for client in clients))
        for number in range(burst):
            publisher.publish(channel, number)
        seen, since = -1, time.monotonic()
        while not accounts.arrived(channel) and time.monotonic() < since + STALL:
            if accounts.deliveries > seen:
                seen, since = accounts.deliveries, time.monotonic()
            gevent.sleep(POLL)
        accounts.judge(time.monotonic(), finally_=True)
        if accounts.gaps:
            accounts.violations.add("the server reported a gap", f"{accounts.gaps} times")
        # All at once: each waits for the server's close frame.
        gevent.joinall([gevent.spawn(client.close) for client in clients])
    return accounts


def main() -> int:
    """Run once, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.audit.fan_out", description="Publish a burst.")
    parser.add_argument("url", metavar="URL", help="URL of the server, ws://…")
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS, help=f"default: {SUBSCRIBERS}")
    parser.add_argument("--burst", type=int, default=BURST, help=f"events at once (default: {BURST})")
    given = parser.parse_args()
    accounts = fan_out(given.url, given.subscribers, given.burst)
    print("\n".join([f"{accounts.deliveries:,} events arrived", *accounts.violations.lines()]), flush=True)
    return 1 if accounts.violations else 0


if __name__ == "__main__":
    sys.exit(main())
