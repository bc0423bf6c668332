"""Memory of an idle connection to a server, with the HTTP server's part."""

from __future__ import annotations

import pytest

from loadtest.bench.connection import REQUESTS
from loadtest.bench.harness.idle_memory import added_kilobytes

pytestmark = pytest.mark.alone


def test_an_idle_subscriber_costs_little():
    # 2.1 KB; a greenlet that waits would add 8 KB. gevent-websocket: 23 to 30 KB.
    command = ["-m", "loadtest.bench.connection", "--serve", "subscribed"]
    assert added_kilobytes(command, 1000, REQUESTS["subscribed"], response=b'"type":8') < 4
