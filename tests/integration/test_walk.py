"""The walk of a CALL through the server, traced: it enters no module twice, and passes few functions.

docs/architecture.md shows the same walk. A module is entered twice if it is called while one of its own functions waits
further out, with another module in between.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import greenlet
import pytest

import juggler
from juggler.broker.redis import RedisBroker
from juggler.protocol.messages import MessageType
from tests.recorders import Outcome, pop_all
from tests.stack import Wire, running_server

ROOT = Path(juggler.__file__).parent

# Functions and modules passed: by a CALL from its bytes to the output queue of the link, by its ACK from Redis's reply,
# and by its RES from the popped result, both to the socket.
MOST = {"CALL": (22, 15), "ACK": (11, 9), "RES": (16, 12)}


class Step(NamedTuple):
    """One call of a function of juggler's: its module, its name, and the modules on the stack, innermost first."""

    module: str
    function: str
    stack: tuple[str, ...]


def module_of(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""


@contextmanager
def calling(function: Callable[[list[FrameType]], None]) -> Iterator[None]:
    """Call ``function`` at each call of a Python function in any greenlet, with the stack, innermost frame first."""

    def on_call(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            stack: list[FrameType] = []
            outer: FrameType | None = frame
            while outer is not None:
                stack.append(outer)
                outer = outer.f_back
            function(stack)

    def on_switch(event: str, args: Any) -> None:
        sys.setprofile(on_call)

    before = greenlet.gettrace()
    greenlet.settrace(on_switch)
    sys.setprofile(on_call)
    try:
        yield
    finally:
        sys.setprofile(None)
        greenlet.settrace(before)


@contextmanager
def traced() -> Iterator[list[Step]]:
    """Yield the list to which each call of a function of juggler's is added, in all greenlets."""
    steps: list[Step] = []

    def add(stack: list[FrameType]) -> None:
        modules = [module_of(frame) for frame in stack]
        if modules[0]:
            steps.append(Step(modules[0], stack[0].f_code.co_name, tuple(filter(None, modules))))

    with calling(add):
        yield steps


def between(steps: list[Step], first: str, last: str) -> list[Step]:
    """Return the steps from the first call of a function to the first call after it of one of `process/output.py`."""
    start = [step.function for step in steps].index(first)
    end = [(step.module, step.function) for step in steps].index(("process/output.py", last), start)
    return steps[start : end + 1]


def entered_twice(step: Step) -> set[str]:
    runs = [module for number, module in enumerate(step.stack) if not number or module != step.stack[number - 1]]
    return {module for module in runs if runs.count(module) > 1}


def shown(steps: list[Step]) -> str:
    return "\n".join(f"{step.module}: {step.function}" for step in steps)


@pytest.fixture
def walk(redis_url: str) -> Callable[[], tuple[list[Step], list[Step]]]:
    """Return the steps of one CALL up to its ACK, and those of its result."""

    def calls_once() -> tuple[list[Step], list[Step]]:
        broker, callee = RedisBroker(redis_url), RedisBroker(redis_url)
        try:
            with running_server(broker) as running, Wire(running.url) as wire:
                consumer = callee.calls(["u"])
                for is_last in (False, True):
                    with traced() as down:
                        wire.send(MessageType.CALL, uri="u", args=[1], timeout=10**10)
                        assert wire.receive()["meta"]["type"] == MessageType.ACK
                    (call,) = pop_all(consumer, 1)
                    done = Outcome()
                    with traced() as up:
                        callee.result(call, b"1", done)
                        assert wire.receive()["meta"]["type"] == MessageType.RES
                    done.wait()
                    if is_last:
                        return down, up
                raise AssertionError
        finally:
            broker.close()
            callee.close()

    return calls_once


def test_a_call_enters_no_module_twice_and_passes_few_functions(walk: Callable[[], Any]) -> None:
    down, up = walk()
    walks = {
        "CALL": between(down, "feed", "put"),
        "ACK": between(down, "_on_pushed", "send"),
        "RES": between(up, "_on_results", "send"),
    }

    for name, steps in walks.items():
        for step in steps:
            assert not entered_twice(step), f"{name}: {step}"
        passed = len(steps), len({step.module for step in steps})
        assert passed <= MOST[name], f"{name}: {passed}\n{shown(steps)}"
