"""Every relative link of the documentation leads to a file, and every anchor to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)

NAMES = {
    "CPU",
    "Python",
    "Redis",
    "Cluster",
    "Go",
    "Node",
    "Flask",
    "SocketIO",
    "WSGI",
    "RPC",
    "NACK",
    "Celery",
    "Centrifugo",
    "Dramatiq",
    "HTTP",
}
NAMES |= {"API", "OpenTelemetry", "URIs", "URI", "KB", "NATS", "TLS", "JSON", "CALL", "EVNT"}


def headings(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", text, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_are_in_sentence_case(page: Path) -> None:
    """A capital letter after the first word is a name, such as Redis or RPC."""
    for heading in headings(page):
        words = re.findall(r"[A-Za-z]+", re.sub(r"\[.*?\]", "", heading))[1:]
        assert not {word for word in words if word[0].isupper() and word not in NAMES}, heading
