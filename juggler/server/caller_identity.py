"""The identity of a caller: JSON, derived from a connection, that accompanies its calls to the callee."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from juggler.errors import InvalidValue
from juggler.process.logline import Line
from juggler.protocol.identity import encode_identity
from juggler.server.connection import Connection

log = logging.getLogger("juggler.server")

CallerHook: TypeAlias = Callable[[Connection], Any]
"""Returns the identity that callees receive for a connection: any JSON value of at most 4 KiB, or ``None`` for none.

It is called at the first CALL of the connection and its result is kept. It may block; it then blocks its own connection
only. If it raises `juggler.errors.Refused`, the CALL is refused, and the next one calls it again.
"""


class CallerIdentity:
    """Returns the identity of a connection as JSON text, empty for none."""

    def __init__(self, hook: CallerHook | None) -> None:
        """Ask ``hook``. Without one, use the identity from the connect hook if it is JSON of at most 4 KiB."""
        self._hook = hook
        self._has_warned = False

    def __call__(self, connection: Connection) -> bytes:
        """Return the identity.

        Raises:
            InvalidValue: the hook returned a value that is not JSON, or is too large.
            Exception: any exception of the hook.
        """
        identity = connection.identity if self._hook is None else self._hook(connection)
        if identity is None:
            return b""
        try:
            return encode_identity(identity)
        except InvalidValue as error:
            if self._hook is not None:
                raise
            if not self._has_warned:  # it is likely to apply to all connections
                self._has_warned = True
                log.warning(Line("server: calls have no identity", error=error, see="docs/server.md"))
            return b""
