"""The Pythons of this machine that juggler supports, and tests of juggler in fresh environments of each.

``python -m tests.interpreters tests/unit`` runs tests in all of them. With ``--lowest`` it runs them in the oldest one,
with the lowest version that setup.cfg allows of each dependency. Environments are kept in .venvs.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINORS = range(10, 15)
"""Minor versions of Python 3 that are looked for."""

EXTRAS = ("embedded", "jwt", "otel", "reload", "processes")
"""Extras whose lower bounds are tested; ``embedded`` has those of ``server`` and ``terminal``."""

TOOLS = (
    "hypothesis",
    "jsonschema-rs",
    "locust",
    "matplotlib",
    "pytest",
    "pyyaml",
    "pytest-timeout",
    "pytest-xdist",
    "trustme",
)
"""What the tests need beside them, in any version. Not the extra ``test``: some of its tools need newer versions."""


@cache
def interpreters() -> dict[str, str]:
    """Return the paths of supported Pythons by version, such as ``"3.12"``: this one, those on PATH, and pyenv's."""
    found = {minor: path for minor in MINORS if (path := _find(minor))} | {sys.version_info[1]: sys.executable}
    return {f"3.{minor}": path for minor, path in sorted(found.items())}


def _find(minor: int) -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in sorted(pyenv.glob(f"3.{minor}.*/bin/python3")):
        return str(path)
    path = shutil.which(f"python3.{minor}")
    works = path and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0
    return path if works else None


def requirements(*extras: str) -> list[str]:
    """Return the requirements of the base and of extras in setup.cfg, without those that are for other Pythons only."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    return sorted({line.strip() for text in texts for line in text.split("\n") if line.strip()})


def lowest(*extras: str) -> list[str]:
    """Return constraints to the lowest version that setup.cfg allows of each dependency."""
    return [re.sub(r"\[.*?\]|, *<.*?(?=;|$)", "", each).replace(">=", "==") for each in requirements(*extras)]


def main() -> int:
    """Run pytest in fresh environments. Return 1 if it fails in one."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.interpreters", description=__doc__, usage="%(prog)s [--lowest] PYTEST-ARGUMENT..."
    )
    parser.add_argument("--lowest", action="store_true", help="lowest versions of dependencies, in the oldest Python")
    options, arguments = parser.parse_known_args()
    pythons = interpreters()
    print(f"found: {', '.join(pythons)}", flush=True)
    chosen = dict([next(iter(pythons.items()))]) if options.lowest else pythons
    failed = []
    for version, python in chosen.items():
        directory = ROOT / ".venvs" / (f"{version}-lowest" if options.lowest else version)
        _install(python, directory, options.lowest)
        print(f"Python {version}: {directory.relative_to(ROOT)}", flush=True)
        command = [directory / "bin" / "python", "-m", "pytest", "-q", *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(version)
    print(f"failed in: {', '.join(failed)}" if failed else "passed in all")
    return 1 if failed else 0


def _install(python: str, directory: Path, with_lowest: bool) -> None:
    """Install juggler with what its tests need. A second run updates the environment."""
    extras, tools = (",".join(EXTRAS), TOOLS) if with_lowest else ("test", ())
    if not directory.exists():
        subprocess.run([python, "-m", "venv", "--without-pip", directory], check=True)
    file = directory / "constraints.txt"
    file.write_text("\n".join(lowest(*EXTRAS) if with_lowest else []))
    pip = [sys.executable, "-m", "pip", "--python", directory / "bin" / "python", "--disable-pip-version-check"]
    wanted = ["--constraint", file, "--editable", f"{ROOT}[{extras}]", *tools]
    subprocess.run([*pip, "install", "--quiet", *wanted], check=True)


if __name__ == "__main__":
    sys.exit(main())
