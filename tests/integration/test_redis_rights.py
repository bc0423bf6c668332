"""The users of docs/redis.md have all the rights that they need, and no right too many to be seen here."""

from __future__ import annotations

import re
import signal

import redis

from juggler.embedded import EmbeddedRedis, bundled_server
from juggler.message import MessageType
from tests.docs import DOCS
from tests.integration.commands import run, running, running_callee
from tests.stack import Wire
from tests.support import eventually

USERS = re.findall(r"^(ACL SETUSER .*)$", (DOCS / "redis.md").read_text(), re.MULTILINE)
CALL, PUB, SUB, ACK = (MessageType(number) for number in (1, 2, 3, 8))


def test_the_rights_suffice():
    with EmbeddedRedis(bundled_server()) as server:
        with redis.Redis.from_url(server.url, protocol=2) as client:
            for line in USERS:
                client.execute_command(*line.split())
        urls = {user: server.url.replace("//", f"//juggler-{user}:password@") for user in ("server", "callee")}
        options = ("--bind", "127.0.0.1:0", "--list-uri", "uris", "--unknown-uris", "refuse")
        with (
            running("server", "--redis", urls["server"], *options) as served,
            running_callee("--redis", urls["callee"]) as callee,
        ):
            assert callee.stdout.readline()
            url = re.search(r"ws://\S+", served.stdout.readline()).group()
            with Wire(url) as wire:
                assert wire.request(SUB, channel="news")["meta"]["type"] == ACK
                assert wire.request(SUB, channel="news.*", pattern=True)["meta"]["type"] == ACK
                assert wire.request(CALL, uri="test.echo", args=1)["meta"]["type"] == ACK
                assert wire.receive()["payload"]["args"] == 1
                wire.request(CALL, uri="uris")
                assert [each["uri"] for each in wire.receive()["payload"]["args"]] == [
                    "test.delay",
                    "test.echo",
                    "test.reverse",
                ]
                wire.send(PUB, channel="news", args=2)
                assert {wire.receive()["meta"]["type"] for _ in range(2)} == {8, 10}
            eventually(lambda: "test.echo" in run("uris", "--redis", urls["server"]).stdout)
            for process in (callee, served):
                process.send_signal(signal.SIGTERM)
            errors = [process.communicate(timeout=15)[1] for process in (callee, served)]
    assert errors == ["", ""]
