"""`PartsQueue`: the parts of a result that were received and not read, and the credit for further ones.

PURE: time is handed in. Nothing here may be used by two threads at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from juggler.client.bookkeeping import Callback, PendingRequest
from juggler.protocol.codec import split_parts
from juggler.protocol.messages import Part, Parts, check_parts

DEFAULT_WINDOW = 64
"""Parts that the server may send before some have been read."""


class PartsQueue(PendingRequest):
    """A call that asks for parts. Clients add the waiting.

    Attributes:
        parts: how it asks for them.
    """

    def __init__(self, callbacks: deque[Callback], wake: Callable[[], object], parts: Parts, timeout: float) -> None:
        """Create a call that is not in flight yet.

        Args:
            callbacks: see `PendingRequest`.
            wake: called when there is a part to read, and when the call is settled.
            parts: how to ask for parts.
            timeout: seconds from part to part.

        Raises:
            ValueError: ``parts`` are out of range.
        """
        super().__init__(callbacks, wake)
        check_parts(parts.mode, parts.window)
        self.parts = parts
        self._timeout = timeout
        self._unread: deque[bytes] = deque()
        self._received = 0
        self._until = parts.window

    def on_part(self, part: Part, now: float) -> None:
        """Store a part, or several that were joined. The time until the next one begins."""
        arrived = split_parts(part.args) if part.joined else [part.args]
        self._unread += arrived
        self._received = part.seq - 1 + len(arrived)
        self._prolong(now)
        self._wake()

    @property
    def is_held(self) -> bool:
        """Whether the server waits for credit, because parts were not read. The call does not expire meanwhile."""
        return self._received >= self._until

    @property
    def is_unread(self) -> bool:
        """Whether there are parts to read."""
        return bool(self._unread)

    @property
    def is_readable(self) -> bool:
        """Whether `take` returns or raises at once."""
        return bool(self._unread) or self.is_settled

    def take(self) -> bytes | None:
        """Return the oldest unread part as JSON text; ``None`` after the last one."""
        if not self._unread:
            return None
        return self._unread.popleft()

    def renew(self, now: float) -> int | None:
        """Return the credit to grant: once half of the window has been read; otherwise ``None``."""
        until = self._received - len(self._unread) + self.parts.window
        if self.is_settled or until - self._until < (self.parts.window + 1) // 2:
            return None
        self._until = until
        self._prolong(now)
        return until

    def extend(self, now: float) -> bool:
        """Postpone the deadline if the server waits for credit. Return whether it is not over."""
        if self.is_held:
            self._prolong(now)
        return self.deadline > now

    def _prolong(self, now: float) -> None:
        self.deadline = max(self.deadline, now + self._timeout)
