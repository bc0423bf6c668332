"""Parsing and formatting of HOST:PORT."""

from __future__ import annotations

import pytest

from juggler.process.address import format_address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        (":80", ("", 80)),
    ],
)
def test_an_address_is_parsed_and_formatted(text, address):
    assert parse_address(text) == address
    assert format_address(address) == text


def test_addresses_of_ipv6_sockets_are_formatted():
    assert format_address(("::1", 80, 0, 0)) == "[::1]:80"


@pytest.mark.parametrize("text", ["9000", "host:", "host:x", "host:65536", "host:-1", "host:²", ""])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match=r"expected HOST:PORT, such as 127\.0\.0\.1:9000 or \[::1\]:9000, got "):
        parse_address(text)
