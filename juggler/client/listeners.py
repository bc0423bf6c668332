"""Those whom a client tells what happens: an error of theirs is logged, and costs nobody else anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from juggler.client.reconnect import State
from juggler.client.state import Exp
from juggler.errors import JugglerError
from juggler.protocol.messages import Response

OnMessage: TypeAlias = Callable[[Response | Exp], None]
OnState: TypeAlias = Callable[[State, JugglerError | None], None]
OnRaw: TypeAlias = Callable[[Literal["in", "out"], str | bytes], None]

_log = logging.getLogger("juggler.client")


class Listeners:
    """A client's callbacks, each of which may be missing; see `juggler.client.Client`.

    Attributes:
        hear_raw: whether somebody wants to be told of raw messages.
    """

    def __init__(self, on_message: OnMessage | None, on_state: OnState | None, on_raw: OnRaw | None) -> None:
        self.hear_raw = on_raw is not None
        self._on_message = on_message
        self._on_state = on_state
        self._on_raw = on_raw

    def tell(self, message: Response | Exp) -> None:
        """A message has come, or a call has expired."""
        if self._on_message is not None:
            try:
                self._on_message(message)
            except Exception:
                _log.exception("on_message failed for %s", type(message).__name__)

    def tell_state(self, state: State, error: JugglerError | None) -> None:
        """The client is connected, or not any more."""
        if self._on_state is not None:
            try:
                self._on_state(state, error)
            except Exception:
                _log.exception("on_state failed for %s", state.value)

    def tell_raw(self, direction: Literal["in", "out"], message: str | bytes) -> None:
        """A message travels."""
        if self._on_raw is not None:
            try:
                self._on_raw(direction, message)
            except Exception:
                _log.exception("on_raw failed for a message %s", direction)
