"""The commands call, pub and sub, as processes, against a server that follows a script."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from tests.integration.commands import TIMEOUT, run, run_python, running
from tests.integration.scripted import CALL, PUB, SUB, Peer, echo, serving
from tests.support import eventually


@pytest.mark.parametrize(
    ("args", "stdin", "expected"),
    [
        ([], "", "null"),
        (['{"a": [1, "é"]}'], "", '{"a": [1, "\\u00e9"]}'),
        (["-"], "[1,\n2]", "[1, 2]"),
        (["--", "-1"], "", "-1"),
        (["-1.5", "--timeout", "9"], "", "-1.5"),
    ],
    ids=["absent", "argument", "standard input", "after --", "negative"],
)
def test_call_prints_the_result(args, stdin, expected):
    with serving(echo) as url:
        done = run("call", "test.echo", *args, JUGGLER_URL=url, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_call_prints_the_result_unchanged_on_one_line():
    def script(peer):
        uuid = peer.acknowledge(CALL)["meta"]["uuid"]
        payload = f'{{"for":"{uuid}","uri":"x","args":[1e400,\r\n2]}}'
        peer.websocket.send(f'{{"meta":{{"type":9,"uuid":"{uuid}"}},"payload":{payload}}}')
        peer.wait_closed()

    with serving(script) as url:
        assert run("call", "x", JUGGLER_URL=url).stdout == "[1e400,  2]\n"


HOSTILE = '"\x7f\x9b2J\u2028\u202eé"'


def test_results_and_events_cannot_control_the_terminal():
    def script(peer):
        uuid = peer.acknowledge(CALL)["meta"]["uuid"]
        message = f'{{"meta":{{"type":9,"uuid":"{uuid}"}},"payload":{{"for":"{uuid}","uri":"x","args":{HOSTILE}}}}}'
        peer.websocket.send(message)
        peer.wait_closed()

    def publishes(peer):
        peer.acknowledge(SUB)
        uuid = "5b6f0a1e-6d2c-4a1e-a7c3-2f1f7d9b8c01"
        payload = f'{{"for":"{uuid}","channel":{HOSTILE},"args":{HOSTILE}}}'
        peer.websocket.send(f'{{"meta":{{"type":10,"uuid":"{uuid}"}},"payload":{payload}}}')
        peer.wait_closed()

    with serving(script) as url:
        result = run("call", "x", JUGGLER_URL=url).stdout
    with serving(publishes) as url:
        event = run("sub", HOSTILE[1:-1], "--count", "1", JUGGLER_URL=url).stdout
    for line in (result, event):
        assert line.removesuffix("\n").isprintable()
    assert json.loads(result) == json.loads(event)["args"] == json.loads(HOSTILE)


@pytest.mark.parametrize("module", ["juggler", "juggler.callee", "callee"])
def test_packages_are_commands(module):
    done = run_python("-m", module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: python -m {module} ")


@pytest.mark.parametrize("command", ["call", "sub"])
def test_ctrl_c_while_connecting(command):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"
        with running(command, "x", JUGGLER_URL=url) as process:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == ({"call": 130, "sub": 0}[command], "")


@pytest.mark.parametrize("command", ["call", "pub"])
@pytest.mark.parametrize("given", ["argument", "file", "standard input"])
def test_json_is_sent_exactly_as_written(command, given, tmp_path):
    json_text = '{"a": 1e400, "a": 0.10, "b": "\\ud800"}'
    file = tmp_path / "args.json"
    file.write_text(f" {json_text}\n")
    argument = {"argument": json_text, "file": f"@{file}", "standard input": "-"}[given]
    sent = []

    def script(peer):
        sent.append(peer.websocket.recv())
        request = json.loads(sent[0])
        peer.ack(request)
        if command == "call":
            peer.res(request, None)
        peer.wait_closed()

    with serving(script) as url:
        assert run(command, "x", argument, JUGGLER_URL=url, stdin=json_text + "\n").returncode == 0
    assert sent[0].endswith(f'"args":{json_text}}}}}')


@pytest.mark.parametrize(
    ("args", "environment", "expected"),
    [
        ([], {}, (None, None)),
        (["--token", "s3cret"], {}, ("Bearer s3cret", None)),
        (["--header", "X-Other:  a: b "], {"JUGGLER_TOKEN": "s3cret"}, ("Bearer s3cret", "a: b")),
        (
            ["--header", "authorization: Basic eA==", "--header", "x-other: c"],
            {"JUGGLER_TOKEN": "t"},
            ("Basic eA==", "c"),
        ),
    ],
)
@pytest.mark.parametrize("command", ["call", "pub", "sub"])
def test_headers_and_tokens_are_sent_with_the_upgrade(command, args, environment, expected):
    seen = []

    def script(peer):
        seen.append((peer.headers.get("Authorization"), peer.headers.get("X-Other")))
        peer.websocket.close(1000)

    with serving(script) as url:
        assert run(command, "x", *args, JUGGLER_URL=url, **environment).returncode == 5
    assert seen == [expected]


@pytest.mark.parametrize(
    ("args", "environment"),
    [
        (["--header", "s3cret"], {}),
        (["--header", "Bad name: s3cret"], {}),
        (["--header", "Name: s3cret\r\nOther: x"], {}),
        (["--header", "Name: s3cret", "--header", "name: s3cret"], {}),
        (["--token", "s3cret and more"], {}),
        ([], {"JUGGLER_TOKEN": "s3cret\n"}),
        (["--timeout", "x"], {"JUGGLER_TOKEN": "s3cret"}),
        (["--help"], {"JUGGLER_TOKEN": "s3cret"}),
    ],
)
def test_secrets_are_never_shown(args, environment):
    done = run("call", "x", *args, JUGGLER_URL="ws://127.0.0.1:1/", **environment)
    assert done.returncode == (0 if args == ["--help"] else 2)
    assert "s3cret" not in done.stdout + done.stderr


def answers_error(peer: Peer) -> None:
    peer.res(peer.acknowledge(CALL), {"error": {"message": "no such user"}})
    peer.wait_closed()


def answers_error_with_controls(peer: Peer) -> None:
    peer.res(peer.acknowledge(CALL), {"error": {"message": "two\nlines\x1b[2J"}})
    peer.wait_closed()


def answers_typed_error(peer: Peer) -> None:
    peer.res(peer.acknowledge(CALL), {"error": {"message": "division by zero", "type": "ZeroDivisionError"}})
    peer.wait_closed()


def answers_error_with_details(peer: Peer) -> None:
    error = {"message": "no money", "type": "CallError", "code": "balance", "data": {"missing": [3], "name": "\x9bé"}}
    peer.res(peer.acknowledge(CALL), {"error": error})
    peer.wait_closed()


def refuses(peer: Peer) -> None:
    peer.nack(peer.receive(), 403, "not you")
    peer.wait_closed()


def says_nothing(peer: Peer) -> None:
    peer.acknowledge()
    peer.wait_closed()


def hangs_up(peer: Peer) -> None:
    peer.receive()
    peer.websocket.close(1001, "shutting down")


def hangs_up_later(peer: Peer) -> None:
    peer.acknowledge()
    peer.websocket.close(1001, "shutting down")


@pytest.mark.parametrize(
    ("script", "args", "code", "line"),
    [
        (answers_error, ["call", "x"], 1, "juggler call: no such user"),
        (answers_error_with_controls, ["call", "x"], 1, r"juggler call: two\nlines\x1b[2J"),
        (answers_typed_error, ["call", "x"], 1, "juggler call: ZeroDivisionError: division by zero"),
        (
            answers_error_with_details,
            ["call", "x"],
            1,
            'juggler call: CallError: no money, code balance, data {"missing": [3], "name": "\\x9bé"}',
        ),
        (refuses, ["call", "x"], 3, "juggler call: 403 not you"),
        (refuses, ["pub", "x"], 3, "juggler pub: 403 not you"),
        (refuses, ["sub", "x"], 3, "juggler sub: 403 not you"),
        (says_nothing, ["call", "x", "--timeout", "0.05"], 4, "juggler call: no result of x within 0.05 s"),
        (says_nothing, ["sub", "x", "--timeout", "0.05"], 4, "juggler sub: no event within 0.05 s"),
        (hangs_up, ["call", "x"], 5, "juggler call: 1001 shutting down"),
        (hangs_up, ["pub", "x"], 5, "juggler pub: 1001 shutting down"),
        (hangs_up, ["sub", "x"], 5, "juggler sub: 1001 shutting down"),
        (hangs_up_later, ["call", "x"], 5, "juggler call: 1001 shutting down"),
        (hangs_up_later, ["sub", "x"], 5, "juggler sub: 1001 shutting down"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_one_line(script, args, code, line):
    with serving(script) as url:
        done = run(*args, JUGGLER_URL=url)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, line)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["call", "x", '{"a": }'], "not JSON at line 1, column 7: Expecting value"),
        (["call", "x", '{"a": }'], "Expecting value, before }"),
        (["call", "x", "[1,"], "not JSON at line 1, column 4: Expecting value, at the end"),
        (["call", "x", "NaN"], "NaN and Infinity are not JSON"),
        (["call", "x", "@/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["call", "--tiemout", "1", "x"], "No such option '--tiemout'"),
        (["call", "x", "-1x"], "not JSON at line 1, column 3"),
        (["call"], "Missing argument 'URI'"),
        (["call", "x", "--timeout", "0"], "0.0 is not in the range 0<x<=86400.0"),
        (["call", "x", "--timeout", "90000"], "90000.0 is not in the range 0<x<=86400.0"),
        (["call", "x", b'"\xff"'], "not UTF-8"),
        (["sub"], "Missing argument 'CHANNEL...'"),
        (["pubb"], "No such command 'pubb'"),
    ],
)
def test_usage_errors_name_the_cause(args, expected):
    with serving(echo) as url:
        done = run(*args, JUGGLER_URL=url)
    assert done.returncode == 2, done
    assert expected in done.stderr


def test_an_invalid_url_and_an_unreachable_server():
    done = run("call", "x", JUGGLER_URL="http://127.0.0.1:1/")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "juggler call: url: expected ws://host:port/path or wss://…, got 'http://127.0.0.1:1/'"
    )
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        done = run("call", "x", JUGGLER_URL=f"ws://127.0.0.1:{bound.getsockname()[1]}/ws")
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "cannot connect to ws://127.0.0.1" in done.stderr


def test_verbose_prints_the_traceback():
    done = run("call", "x", "--verbose", JUGGLER_URL="nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("juggler call: url: expected")


def test_pub_publishes_its_argument():
    payloads = []

    def script(peer):
        payloads.append(peer.acknowledge(PUB)["payload"])
        peer.wait_closed()

    with serving(script) as url:
        assert run("pub", "news", '["hello"]', JUGGLER_URL=url).returncode == 0
    assert payloads == [{"channel": "news", "args": ["hello"]}]


def test_sub_prints_events_up_to_count():
    def script(peer):
        subscribed = [peer.acknowledge(SUB)["payload"] for _ in range(2)]
        assert subscribed == [{"channel": name, "pattern": True} for name in ("news.*", "log.*")]
        peer.event("news.a", 0.1, pattern="news.*")
        peer.event("log.é", {"n": 2}, pattern="log.*")
        peer.wait_closed()

    with serving(script) as url:
        done = run("sub", "news.*", "log.*", "--pattern", "--count", "2", JUGGLER_URL=url)
    assert (done.returncode, done.stderr) == (0, "subscribed to news.*, log.*\n")
    events = sorted(done.stdout.splitlines(), reverse=True)
    assert events[0] == '{"channel": "news.a", "pattern": "news.*", "args": 0.1}'
    assert json.loads(events[1]) == {"channel": "log.é", "pattern": "log.*", "args": {"n": 2}}


def test_sub_exits_with_3_when_the_server_cancels_the_subscription():
    def script(peer):
        peer.acknowledge(SUB)
        peer.event("news", 1)
        peer.send(34, channel="news", pattern=False, code=403, message="no longer allowed")
        peer.wait_closed()

    with serving(script) as url:
        done = run("sub", "news", JUGGLER_URL=url)
    assert (done.returncode, done.stdout) == (3, '{"channel": "news", "args": 1}\n')
    assert done.stderr == "subscribed to news\njuggler sub: 403 no longer allowed\n"


def test_sub_flushes_each_line_and_exits_with_0_on_ctrl_c():
    def script(peer):
        peer.acknowledge(SUB)
        peer.event("news", 1)
        peer.wait_closed()

    with serving(script) as url, running("sub", "news", JUGGLER_URL=url) as process:
        assert process.stdout.readline() == '{"channel": "news", "args": 1}\n'
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "subscribed to news\n")


def test_ctrl_c_interrupts_a_call():
    called = []

    def script(peer):
        called.append(peer.receive(CALL))
        peer.wait_closed()

    with serving(script) as url, running("call", "x", JUGGLER_URL=url) as process:
        eventually(lambda: called)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (130, "")


def test_a_closed_output_has_its_own_exit_code():
    with serving(echo) as url, running("call", "test.echo", '"x"', JUGGLER_URL=url) as process:
        process.stdout.close()
        assert process.wait(TIMEOUT) == 141
        assert process.stderr.read() == ""
