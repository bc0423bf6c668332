"""Check the request line and the headers of an HTTP/1.1 request (RFC 9112), where pywsgi is lenient.

What two parsers understand differently lets requests be smuggled past a proxy. PURE: text in, a value or
`HandshakeRefused` out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from juggler.protocol.headers import refused

_BAD = "400 Bad Request"
_NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_is_header = re.compile(_NAME.encode() + rb":[^\x00\r\n]*\r?\n").fullmatch
_is_length = re.compile("[0-9]{1,18}").fullmatch
_AUTHORITY = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?"
_is_authority = re.compile(_AUTHORITY).fullmatch
_request_line = re.compile(rf"({_NAME}) ([^\x00-\x20\x7f]+) (HTTP/1\.[0-9])\r?\n").fullmatch
_absolute = re.compile(rf"(?:https?|wss?)://({_AUTHORITY})(/[^?]*)?(\?.*)?", re.IGNORECASE).fullmatch


class RequestLine(NamedTuple):
    """A request line.

    Attributes:
        target: path and query.
        authority: host and port of a target in absolute form, which replace the header ``Host`` (RFC 9112 §3.2.2).
    """

    target: str
    authority: str | None


def parse_request_line(line: str) -> RequestLine:
    """Parse a request line (RFC 9112 §3).

    Raises:
        HandshakeRefused: 400.
    """
    match = _request_line(line)
    if match is None:
        raise refused(_BAD, "request line", "an HTTP/1.1 request", line)
    method, target = match[1], match[2]
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return RequestLine(target, None)
    absolute = _absolute(target)
    if absolute is None or not absolute[1]:
        raise refused(_BAD, "request target", "a path or a URL", target)
    return RequestLine((absolute[2] or "/") + (absolute[3] or ""), absolute[1])


def check_header_line(line: bytes) -> None:
    """Check one line of the headers, or the empty one that ends them (RFC 9112 §5).

    Raises:
        HandshakeRefused: 400: it is folded over several lines, has a space before its colon, or is incomplete.
    """
    if line in (b"\r\n", b"\n") or _is_header(line):
        return
    raise refused(_BAD, "header", "name: value", line.decode("latin-1"))


def check_headers(is_1_1: bool, values: Callable[[str], Sequence[str]]) -> None:
    """Check the headers that determine the length and the host of a request (RFC 9112 §3.2, §6.1, §6.3).

    Args:
        is_1_1: whether the request is HTTP/1.1.
        values: returns all values of a header.

    Raises:
        HandshakeRefused: 400; 501 for a transfer coding other than chunked.
    """
    hosts = [value.strip(" \t") for value in values("Host")]
    if len(hosts) > 1 or (is_1_1 and not hosts) or not all(map(_is_authority, hosts)):
        raise refused(_BAD, "Host", "one host", ", ".join(hosts))
    lengths = [value.strip(" \t") for value in values("Content-Length")]
    if len(lengths) > 1 or not all(map(_is_length, lengths)):
        raise refused(_BAD, "Content-Length", "digits, once", ", ".join(lengths))
    codings = values("Transfer-Encoding")
    if codings:
        if lengths or not is_1_1:
            raise refused(_BAD, "Transfer-Encoding", "HTTP/1.1 without Content-Length", codings[0])
        if len(codings) > 1 or codings[0].lower() != "chunked":
            raise refused("501 Not Implemented", "Transfer-Encoding", "chunked", ", ".join(codings))
