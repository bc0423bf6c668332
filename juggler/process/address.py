"""Network addresses as users write them: ``HOST:PORT``, an IPv6 host in brackets."""

from __future__ import annotations

import ipaddress


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; the host may be empty.

    Raises:
        ValueError: the text has another form.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:9000 or [::1]:9000, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def format_address(address: tuple[str, int]) -> str:
    """Return an address as ``HOST:PORT``; accepts what sockets return for IPv6, too."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host: ``127.0.0.1``, ``::1`` or ``localhost``; not a wildcard."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
