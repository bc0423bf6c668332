"""loadtest.sabotage: what reaches the clients when one in three results and events is harmed, the first of them."""

from __future__ import annotations

import asyncio
import json

import pytest

from loadtest import sabotage
from loadtest.frames import PING, TEXT, Frames
from loadtest.sabotage import ACK, CALL, EVNT, KINDS, RES, Client, Saboteur

SUB = 3
DELAY = 0.05


class Written:
    """What a client has received."""

    def __init__(self):
        self._frames = Frames()
        self.messages = []

    def is_closing(self):
        return False

    def write(self, data):
        found = self._frames.feed(data)
        self.messages += [json.loads(payload)["payload"] if opcode == TEXT else payload for opcode, payload in found]


def forward(kind, *messages, one_in=3, wait=0.0):
    """Forward messages to the first of two clients, and return what each has received."""

    async def run():
        saboteur = Saboteur(kind, one_in=one_in, delay=DELAY)
        writers = [Written(), Written()]
        saboteur.clients += map(Client, writers)
        for type, payload in messages:
            text = json.dumps({"meta": {"type": type}, "payload": payload}).encode()
            saboteur.forward(saboteur.clients[0], TEXT, text)
        saboteur.forward(saboteur.clients[0], PING, b"last")
        await asyncio.sleep(wait)
        return [writer.messages for writer in writers]

    return asyncio.run(run())


def event(number, channel="c"):
    return EVNT, {"for": "p", "channel": channel, "args": number}


def numbers(messages):
    return [message["args"] if isinstance(message, dict) else "ping" for message in messages]


EVENTS = [event(number) for number in range(1, 7)]


@pytest.mark.parametrize(
    ("kind", "own", "other"),
    [
        ("drop", [2, 3, 5, 6, "ping"], []),
        ("double", [1, 1, 2, 3, 4, 4, 5, 6, "ping"], []),
        ("swap", [2, 1, 3, 5, 4, 6, "ping"], []),
        ("delay", [2, 3, 5, 6, "ping", 1, 4], []),
        ("misroute", [2, 3, 5, 6, "ping"], [1, 4]),
    ],
)
def test_events(kind, own, other):
    assert [numbers(messages) for messages in forward(kind, *EVENTS, wait=2 * DELAY)] == [own, other]


def test_every_kind_is_tested():
    assert set(KINDS) == {"drop", "double", "swap", "delay", "misroute"}


def call(number):
    return [(ACK, {"for": number, "for_type": CALL}), (RES, {"for": number, "args": number})]


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("drop", ["ACK 1", "ACK 2", "RES 2"]),
        ("double", ["ACK 1", "RES 1", "RES 1", "ACK 2", "RES 2"]),
        ("swap", ["RES 1", "ACK 1", "ACK 2", "RES 2"]),
    ],
)
def test_results(kind, own):
    (messages, _) = forward(kind, *call(1), *call(2))
    assert [f"{'RES' if 'args' in each else 'ACK'} {each['for']}" for each in messages[:-1]] == own


@pytest.mark.parametrize("kind", KINDS)
def test_other_messages_pass(kind):
    acks = [(ACK, {"for": number, "for_type": SUB}) for number in range(6)]
    (messages, other) = forward(kind, *acks)
    assert [message["for"] for message in messages[:-1]] == list(range(6))
    assert other == []


def test_a_message_is_not_held_back_for_ever(monkeypatch):
    monkeypatch.setattr(sabotage, "PATIENCE", DELAY)
    (messages, _) = forward("swap", event(1), event(2, "d"), wait=2 * DELAY)
    assert numbers(messages) == [2, "ping", 1]
