"""A script for cron: read a report line by line, and publish it in one batch.

::

    0 6 * * *  REDIS_URL=redis://127.0.0.1:6379 python -m examples.backends.report
"""

from __future__ import annotations

import os
import sys

from juggler.backend import Backend
from juggler.errors import JugglerError


def main() -> int:
    try:
        with Backend(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")) as backend:
            with backend.stream("shop.report", timeout=30) as stream:
                lines = list(stream)
                print(f"{stream.result()} lines")
            backend.publish_many(("report", line) for line in lines)
    except JugglerError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
