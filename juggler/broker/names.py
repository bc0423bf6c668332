"""Validation of URIs and channels, for all brokers. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from juggler.errors import BrokerError, NackCode

MAX_LENGTH = 8192
"""Maximum length of a URI or channel in characters: each call stores its URI several times."""


GAP_CHANNEL = "juggler.gap"
"""Subscribers of this channel receive an event when events may have been lost. It does not travel through Redis."""

RESERVED = ("juggler", "__")
"""Beginnings of the names of channels that clients may not use: they are those of juggler and of Redis."""


def is_reserved(channel: str) -> bool:
    """Return whether a channel is reserved. Its events are delivered to no pattern."""
    return channel.startswith(RESERVED)


def reserved(channel: str) -> BrokerError:
    """Return the refusal of a reserved channel; code 403."""
    return BrokerError(f"channel {channel!r}: names that begin with 'juggler' or '__' are reserved", NackCode.FORBIDDEN)


def check_uri(uri: str) -> None:
    """Check the URI of a function.

    A URI is the hash tag of its Redis keys, in braces. A tag that is empty or starts with ``}`` is ignored by Redis:
    the keys would have different slots in a cluster.

    Raises:
        BrokerError: it is empty, starts with ``}``, is too long, or not valid Unicode; code 400.
    """
    if uri.isascii() and 0 < len(uri) <= MAX_LENGTH and uri[0] != "}":
        return  # nearly all URIs
    if not uri or uri[0] == "}":
        raise BrokerError(f"invalid URI {uri!r}: must not be empty or start with '}}'", NackCode.BAD_REQUEST)
    _check_text("URI", uri)


def check_uris(uris: Iterable[str]) -> tuple[str, ...]:
    """Return the URIs of a callee, without duplicates.

    Raises:
        ValueError: there is none, or one is invalid.
    """
    distinct = tuple(dict.fromkeys(uris))
    if not distinct:
        raise ValueError("expected at least one URI")
    for uri in distinct:
        try:
            check_uri(uri)
        except BrokerError as error:
            raise ValueError(error.reason) from None
    return distinct


def check_channel(channel: str) -> None:
    """Check the name of a channel, or a pattern.

    Raises:
        BrokerError: it is empty, too long, or not valid Unicode; code 400.
    """
    if not channel:
        raise BrokerError("invalid channel '': must not be empty", NackCode.BAD_REQUEST)
    _check_text("channel", channel)


def _check_text(what: str, name: str) -> None:
    if len(name) > MAX_LENGTH:
        reason = f"invalid {what} {name[:20]!r}…: must have at most {MAX_LENGTH} characters, got {len(name)}"
        raise BrokerError(reason, NackCode.BAD_REQUEST)
    if name.isascii():
        return
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BrokerError(f"invalid {what} {name!r}: must be valid Unicode", NackCode.BAD_REQUEST) from None
