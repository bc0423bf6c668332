"""A callee for ``juggler-callee``, which uses OpenTelemetry if ``TRACES`` is set."""

from __future__ import annotations

import logging
import os

from callee import Callee, CallError

if "TRACES" in os.environ:
    from tests.integration.spans import note_spans

    note_spans()

log = logging.getLogger("application")
rpc = Callee()


def answer():
    log.warning("in the function")


def fail():
    raise ValueError("on purpose")


def refuse():
    raise CallError("not now")


for pool in (None, "thread", "process"):
    for function in (answer, fail, refuse):
        rpc.register(f"{function.__name__}.{pool}", function, pool=pool)
