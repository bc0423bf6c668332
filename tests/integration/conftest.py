"""Fixtures of the integration tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from juggler.broker.redis import RedisBroker
from juggler.process.embedded import bundled_server, free_port
from tests.recorders import RecordedCall
from tests.redis_servers import MortalRedis, mortal_redis

if TYPE_CHECKING:
    from tests.containers import Image


@pytest.fixture
def ask(redis_url):
    """Call a function through Redis and return the result, decoded: ``ask(uri, value)``."""
    broker = RedisBroker(redis_url)

    def ask(uri, value, wait=True):
        pending = RecordedCall()
        broker.call(uri, json.dumps(value).encode(), 10.0, pending)
        if not wait:
            return pending
        (_, error), (kind, args) = pending.wait(2)
        assert (error, kind) == (None, "result")
        return json.loads(args)

    yield ask
    broker.close()


@pytest.fixture
def mortal(tmp_path) -> Iterator[MortalRedis]:
    """A Redis server that is not started yet, and that may be killed."""
    with mortal_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """The image of the Dockerfile, where every user may read it."""
    from tests.containers import Image

    directory = Path(tempfile.mkdtemp(prefix="juggler-image-"))
    directory.chmod(0o755)
    made = Image(directory)
    try:
        made.build()
        yield made
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def compose_redis(tmp_path) -> Iterator[str]:
    """The Redis of the compose file, started by its own command; yields its URL."""
    import yaml

    program, *words = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())["services"]["redis"][
        "command"
    ]
    assert program == "redis-server"
    port = free_port()
    command = [bundled_server(), "--port", str(port), "--bind", "127.0.0.1", *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        yield f"redis://127.0.0.1:{port}"
        process.terminate()
