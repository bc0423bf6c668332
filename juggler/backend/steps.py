"""Steps: what an operation asks its backend to do. PURE.

An operation is a generator. It yields steps, receives their outcome or the `juggler.errors.BrokerError` that they
failed with, and returns its result. So both backends share all operations, and add only the I/O of these steps.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

Address: TypeAlias = tuple[str, int]


class Send(NamedTuple):
    """Send commands on one connection, and receive the list of their replies; errors of Redis are among these.

    Attributes:
        commands: packed commands.
        address: node of a cluster; ``None`` for the only server, or the current master.
        waits: whether a command blocks until there is a result.
    """

    commands: Sequence[bytes]
    address: Address | None = None
    waits: bool = False


class Reconnect(NamedTuple):
    """Close the idle connections to an address: its server is no longer the master."""

    address: Address | None


class Pause(NamedTuple):
    """Wait."""

    seconds: float


Step: TypeAlias = Send | Reconnect | Pause

Steps: TypeAlias = Generator[Step, Any, T]
"""An operation with a result of type ``T``."""
