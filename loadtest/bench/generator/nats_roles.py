"""Roles that speak NATS: the loop, the measurements and the order of operations are those of `roles`."""

from __future__ import annotations

import os
from time import monotonic_ns

from loadtest.bench.generator import nats_wire as nats
from loadtest.bench.generator.loop import Connection, Lost
from loadtest.bench.generator.roles import Caller, Publisher, Role, Subscriber
from loadtest.bench.generator.wire import client_frame


class NatsRole(Role):
    """Connects with NATS's handshake, and answers its PINGs."""

    def prepare(self) -> None:
        self._rests: dict[int, bytes] = {}
        super().prepare()

    def subscriptions(self, connection: Connection) -> list[str]:
        """Return the subjects of a connection."""
        return []

    def on_open(self, connection: Connection) -> None:
        subjects = self.subscriptions(connection)
        subscribe = b"".join(nats.subscribe(subject, number) for number, subject in enumerate(subjects, 1))
        connection.send(client_frame(nats.CONNECT + subscribe) + nats.line(nats.PING))

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        self.messages(connection, texts)

    def messages(self, connection: Connection, texts: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Return the subjects and payloads of messages, and handle what else has arrived."""
        number = connection.number
        messages, lines, self._rests[number] = nats.split(self._rests.get(number, b"") + b"".join(texts))
        for line in lines:
            if line == nats.PING:
                connection.send(nats.line(nats.PONG))
            elif line == nats.PONG:
                # It follows the subscriptions, so that they are in force.
                self.is_ready()
            elif line.startswith(b"-ERR"):
                raise Lost(f"NATS: {line.decode(errors='replace')}")
        return messages


class NatsCaller(NatsRole, Caller):
    """Calls again on each reply. The last word of a reply's subject is the slot."""

    on_texts = Caller.on_texts

    def subscriptions(self, connection: Connection) -> list[str]:
        return [f"{_inbox(connection.number)}.*"]

    def frame(self, slot: int, uri: str) -> bytes:
        inbox = _inbox(slot // self.spec["in_flight"])
        return nats.publish(uri, self.spec["args"].encode(), f"{inbox}.{slot}")

    def completed(self, connection: Connection, texts: list[bytes]) -> list[int]:
        return [int(subject[subject.rfind(b".") + 1 :]) for subject, _ in self.messages(connection, texts)]


class NatsSubscriber(NatsRole, Subscriber):
    """Subscribes connections to their subjects, and reports received messages to the publishers."""

    def subscriptions(self, connection: Connection) -> list[str]:
        return [_subject(channel) for channel in self.spec["channels"][connection.number]]

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        now_ns = monotonic_ns()
        for _, payload in self.messages(connection, texts):
            self.received(payload, now_ns)


class NatsPublisher(NatsRole, Publisher):
    """Publishes the next message when all subscriber processes have reported the last one."""

    def frame(self, channel: str, args: str) -> bytes:
        return nats.publish(_subject(channel), args.encode())


def _inbox(connection: int) -> str:
    # The process id, as subjects are those of all generators together.
    return f"_INBOX.{os.getpid()}.{connection}"


def _subject(channel: object) -> str:
    return f"bench.{channel}"


NATS_ROLES: dict[str, type[NatsRole]] = {
    "call": NatsCaller,
    "subscribe": NatsSubscriber,
    "publish": NatsPublisher,
}
