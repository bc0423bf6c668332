"""Commands of a backend to all server processes, as steps. PURE: see `juggler.backend.steps`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from juggler.backend.routing import Router
from juggler.backend.steps import Steps
from juggler.broker.redis.keys import Names
from juggler.protocol.server_commands import CommandOutcome, ServerCommand, encode_command, outcome
from juggler.protocol.server_status import ServerStatus, decode_statuses

Ask: TypeAlias = Callable[[Mapping[bytes, bytes], bytes, float], "Steps[list[bytes]]"]
"""See `juggler.backend.operations.Operations.ask`."""


class ServerOperations:
    """Finds the servers that live, and sends them commands."""

    def __init__(self, router: Router, names: Names, ask: Ask, new_uuid: Callable[[], str]) -> None:
        self._router = router
        self._names = names
        self._ask = ask
        self._new_uuid = new_uuid

    def statuses(self) -> Steps[list[ServerStatus]]:
        """Return what each server that lives reports of itself."""
        living = yield from self._living()
        return decode_statuses(living)

    def command(self, command: ServerCommand, timeout: float) -> Steps[CommandOutcome]:
        """Send a command to all servers that live, and count their answers.

        Args:
            command: the command; its ``reply`` is set here.
            timeout: seconds to wait for the answers.

        Raises:
            ValueError: the timeout is out of range.
        """
        if not 0 < timeout <= 60:
            raise ValueError(f"timeout: expected more than 0 and at most 60 seconds, got {timeout!r}")
        ids = list((yield from self._living()))
        replies = self._new_uuid()
        text = encode_command(msgspec.structs.replace(command, reply=replies))
        messages = {self._names.control(server_id): text for server_id in ids}
        answers = yield from self._ask(messages, self._names.replies(replies), timeout)
        return outcome(ids, answers, command.limit)

    def _living(self) -> Steps[dict[str, bytes]]:
        """Return the description of each living server by its identifier. Remove those that have gone."""
        servers = self._names.servers
        members = yield from self._router.execute(servers, b"SMEMBERS", servers)
        living: dict[str, bytes] = {}
        gone: list[str] = []
        for server_id in sorted(member.decode(errors="replace") for member in members):
            key = self._names.server(server_id)
            (text,) = yield from self._router.execute(key, b"MGET", key)
            if text is None:
                gone.append(server_id)
            else:
                living[server_id] = text
        if gone:
            yield from self._router.execute(servers, b"SREM", servers, *gone)
        return living
