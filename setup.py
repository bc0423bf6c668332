"""Build the distribution from setup.cfg, with a README whose links also work on the page of a package index."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
RELATIVE_LINK = re.compile(r"(!?)(\[[^]]*\])\((?![a-z]+:|#)([^)\s]+)\)")


def readme() -> str:
    """Return README.md with absolute links to the repository: ``raw`` for pictures, ``blob`` for pages."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    url = config["metadata"]["url"]

    def absolute(link: re.Match[str]) -> str:
        mark, text, path = link.groups()
        return f"{mark}{text}({url}/{'raw' if mark else 'blob'}/HEAD/{path})"

    return RELATIVE_LINK.sub(absolute, (ROOT / "README.md").read_text("utf-8"))


setup(long_description=readme())
