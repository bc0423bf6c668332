"""The readiness of a server, asked for again and again."""

from __future__ import annotations

import http.client
import time
import urllib.request
from math import inf
from urllib.parse import urlsplit

import gevent

INTERVAL = 0.5
TIMEOUT = 2.0


class Readiness:
    """Asks a server in a greenlet, from construction until `stop`.

    Attributes:
        unready_at: last time at which it was not ready or did not answer.
    """

    def __init__(self, url: str) -> None:
        """Start; ``url`` is that of the server's websockets."""
        self.unready_at = -inf
        self._url = f"http://{urlsplit(url).netloc}/readyz"
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Stop. Idempotent."""
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            try:
                urllib.request.urlopen(self._url, timeout=TIMEOUT).close()
            except (OSError, http.client.HTTPException):
                self.unready_at = time.monotonic()
            gevent.sleep(INTERVAL)
