"""``juggler client`` in a real terminal."""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus

import pytest
from websockets.exceptions import ConnectionClosed as WebsocketClosed

from juggler.client import Client
from tests.integration.commands import callee_process, run, server_process
from tests.integration.scripted import CALL, PUB, SUB, Peer, serving
from tests.integration.tmux import PATIENCE, terminal
from tests.support import eventually

LISTS = "--list-uri", "juggler.uris"
TOOK = r"\((\d+\.\d ms|\d+\.\d{3} s)\)"


class Recorder:
    """A server that acknowledges and records every message, and answers none."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.messages: list[dict] = []
        self.ends: list[tuple[int, str]] = []

    def __call__(self, peer: Peer) -> None:
        self.peers.append(peer)
        try:
            while True:
                message = peer.acknowledge()
                if message["payload"].get("uri") != "juggler.uris":
                    self.messages.append(message)
        except WebsocketClosed as end:
            # No close frame: the terminal was closed under the client.
            if end.rcvd is not None:
                self.ends.append((end.rcvd.code, end.rcvd.reason))


def hangs_up(code: int, reason: str):
    def script(peer: Peer) -> None:
        peer.websocket.close(code, reason)

    return script


def test_calls_and_events_with_a_real_server_and_callee(redis_url):
    with (
        server_process(redis_url, *LISTS) as url,
        callee_process(redis_url),
        terminal(url) as shown,
        Client(url) as other,
    ):
        shown.wait_for(f"[1] connected to {url}")
        shown.enter('call test.reverse "olleh"')
        assert re.fullmatch(rf'\[1\] result test\.reverse "hello"  {TOOK}', shown.wait_for("result test.reverse"))
        shown.enter("call test.reverse 1")
        line = shown.wait_for("failed test.reverse")
        assert re.fullmatch(rf"\[1\] failed test\.reverse InvalidArguments: .* got int, code 400  {TOOK}", line)

        shown.enter("sub news")
        shown.wait_for("[1] subscribed to news")
        shown.enter("psub ne*")
        shown.wait_for("[1] subscribed to ne*")
        shown.type('pub news {"half": ')
        typed = shown.lines()[-1]
        other.publish("news", "meanwhile")
        shown.wait_for('[1] event news "meanwhile"')
        shown.wait_for('[1] event news (ne*) "meanwhile"')
        shown.wait_for_last(typed)
        shown.write("1e400}")
        shown.keys("Enter")
        shown.wait_for('[1] event news {"half": 1e400}')
        assert re.fullmatch(rf"\[1\] published on news  {TOOK}", shown.wait_for("published on news"))

        shown.enter("unsb news")
        shown.wait_for("[1] unsubscribed from news")
        shown.enter("punsb ne*")
        shown.wait_for("[1] unsubscribed from ne*")
        shown.enter("pub news 2")
        shown.enter('call test.echo "last"')
        shown.wait_for('result test.echo "last"')
        assert not [line for line in shown.lines() if line.startswith("[1] event news") and line.endswith(" 2")]
        shown.enter("quit")
        shown.wait_for_last("ended with 0")


def test_uris_of_the_catalogue_are_completed(redis_url):
    with server_process(redis_url, *LISTS) as url, callee_process(redis_url), terminal(url) as shown:
        shown.type("call test.rev")
        prompt = shown.lines()[-1].removesuffix("call test.rev")

        def press_tab():
            shown.keys("Tab")
            return shown.lines()[-1] == f"{prompt}call test.reverse"

        # The catalogue is requested when the connection opens, and may not have arrived.
        eventually(press_tab, PATIENCE)
        shown.write('"ba"')
        shown.keys("Enter")
        shown.wait_for('result test.reverse "ab"')


def test_used_names_are_completed_without_a_catalogue():
    def answers(peer):
        with suppress(WebsocketClosed):
            while True:
                peer.res(peer.acknowledge(CALL), {"not": "a list"})

    with serving(answers) as url, terminal(url) as shown:
        shown.enter("call my.function 1")
        shown.wait_for("result my.function")
        shown.type("call my")
        shown.keys("Tab")
        shown.wait_for_last(shown.lines()[-1].partition("call")[0] + "call my.function")
        shown.keys("C-c")
        shown.type("rest")
        shown.keys("C-c")
        shown.type("hel")
        shown.keys("Tab")
        shown.wait_for_last(shown.lines()[-1].partition("hel")[0] + "help")
        shown.keys("Enter")
        shown.wait_for("call URI [JSON]")
        assert not [line for line in shown.lines() if "error" in line]


def test_two_connections():
    first, second = Recorder(), Recorder()
    with serving(first) as one, serving(second) as two, terminal(one) as shown:
        shown.wait_for(f"[1] connected to {one}")
        shown.enter("sub news")
        shown.enter(f"connect {two}")
        shown.wait_for(f"[2] connected to {two}")
        assert shown.wait_for_prompt().startswith("[2] ")
        shown.enter("call f 1")
        eventually(lambda: [message["payload"]["args"] for message in second.messages] == [1], PATIENCE)
        first.peers[0].event("news", "for the first")
        shown.wait_for('[1] event news "for the first"')
        shown.enter("list")
        shown.wait_for(f"* [2] {two}")
        shown.wait_for_prompt()
        assert shown.lines()[-4:-1] == [f"  [1] {one}", "      sub  news", f"* [2] {two}"]

        shown.enter("use 1")
        shown.wait_for(f"[1] {one} is the current connection")
        shown.enter("call f 2")
        eventually(lambda: [message["meta"]["type"] for message in first.messages] == [3, CALL], PATIENCE)
        shown.enter("disconnect 2")
        shown.wait_for("[2] closed: 1000")
        shown.wait_for("failed f 1000 closed by this client")
        shown.enter("disconnect")
        shown.wait_for("[1] closed: 1000")
        shown.wait_for_last(">")
        shown.enter("call f")
        shown.wait_for("error: no connection; type connect to open one")
    assert (first.ends, second.ends) == ([(1000, "")], [(1000, "")])


def test_a_close_code_and_reason():
    server = Recorder()
    with serving(server) as url, terminal(url) as shown:
        shown.enter("close 1006")
        shown.wait_for("error: expected a close code of 1000 to 1003")
        shown.enter("close 4321 bye, server")
        shown.wait_for("[1] closed: 4321 bye, server")
    assert server.ends == [(4321, "bye, server")]


def test_invalid_json_is_refused_by_call_and_sent_by_send(redis_url):
    with server_process(redis_url, *LISTS) as url, terminal(url) as shown:
        shown.enter('call f {"a": }')
        shown.wait_for("error: not JSON at line 1, column 7: Expecting value, before }")
        shown.enter("frobnicate")
        shown.wait_for("error: unknown command: 'frobnicate'")
        shown.enter('send {"a": }')
        shown.wait_for("[1] closed: 4400 $: invalid JSON")
        shown.enter("connect")
        shown.wait_for("[2] connected to")
        shown.enter("raw on")
        shown.enter("rand 10")
        assert re.fullmatch(r"\[2\] >> 10 bytes: [0-9a-f]{20}", shown.wait_for("bytes: "))
        shown.wait_for("[2] closed: 1003")
        shown.enter("raw off")
        shown.enter("connect")
        shown.wait_for("[3] connected to")
        shown.enter('send {"meta":{"type":3,"uuid":"cd1a2941-83b9-4237-afc8-dcaa28b82ddf"},"payload":{"channel":"c"}}')
        shown.wait_for("[3] << ", '"type":8', '"for":"cd1a2941-83b9-4237-afc8-dcaa28b82ddf"')


def test_raw_shows_every_message():
    server = Recorder()
    with serving(server) as url, terminal(url) as shown:
        shown.enter("raw on")
        shown.enter("pub news [1,  2]")
        shown.wait_for("[1] >> ", '"type":2', '"args":[1,  2]')
        shown.wait_for("[1] << ", '"type": 8')
        server.peers[0].event("news", 5)
        shown.wait_for("[1] << ", '"type": 10')
        shown.enter("raw off")
        shown.enter("pub other 3")
        shown.wait_for("published on other")
        assert not [line for line in shown.lines() if ">>" in line and "other" in line]
        shown.enter("quit")
        shown.wait_for_last("ended with 0")


def test_connection_errors_do_not_exit_the_client():
    with (
        serving(
            Recorder(), process_request=lambda peer, _: peer.respond(HTTPStatus.UNAUTHORIZED, "no token\n")
        ) as deaf,
        serving(hangs_up(4000, "not\nyou")) as rude,
        terminal("http://nowhere/") as shown,
    ):
        shown.wait_for("error: url: expected ws://host:port/path")
        shown.enter("connect ws://127.0.0.1:1/")
        shown.wait_for("error: 1006 cannot connect to ws://127.0.0.1:1/")
        shown.enter(f"connect {deaf}")
        shown.wait_for("error: 401 Unauthorized: no token")
        shown.enter(f"connect {rude}")
        shown.wait_for(r"[1] closed: 4000 not\nyou")
        shown.wait_for_last(">")
        assert not [line for line in shown.lines() if "Traceback" in line]


def test_a_subscription_that_the_server_cancels_is_shown():
    server = Recorder()
    with serving(server) as url, terminal(url) as shown:
        shown.wait_for(f"[1] connected to {url}")
        shown.enter("psub news.*")
        shown.wait_for("[1] subscribed to news.*")
        server.peers[0].send(34, channel="news.*", pattern=True, code=403, message="no longer allowed")
        shown.wait_for("[1] subscription to news.* lost: 403 no longer allowed")
        shown.enter("punsb news.*")
        shown.wait_for("[1] not subscribed to news.*")


def test_a_lost_connection_is_reestablished():
    recorder = Recorder()

    def script(peer):
        if recorder.peers:
            recorder(peer)
            return
        recorder.peers.append(peer)
        while peer.receive()["meta"]["type"] != SUB:
            pass
        peer.websocket.close(1001, "shutting down")

    with serving(script) as url, terminal(url) as shown:
        shown.enter("sub news")
        shown.wait_for("[1] connection lost: 1001 shutting down; reconnecting")
        shown.wait_for("[1] reconnected")
        shown.enter("sub news")
        shown.wait_for("[1] subscribed to news")


def test_ctrl_c_clears_the_line_or_interrupts_and_ctrl_d_quits():
    received = []

    def mute(peer):
        with suppress(WebsocketClosed):
            while True:
                received.append(peer.receive()["meta"]["type"])

    with serving(mute) as url, terminal(url) as shown:
        shown.type("half a line")
        shown.keys("C-c")
        shown.enter("pub news")
        eventually(lambda: PUB in received, PATIENCE)
        shown.keys("C-c")
        shown.wait_for("interrupted")
        shown.wait_for_prompt()
        shown.keys("C-d")
        shown.wait_for_last("ended with 0")


def test_headers_and_token_are_sent_and_not_shown(tmp_path):
    server = Recorder()
    options = "--header", "X-Other: s3cret"
    with serving(server) as url, terminal(url, *options, JUGGLER_TOKEN="s3cret", XDG_STATE_HOME=str(tmp_path)) as shown:
        shown.wait_for("[1] connected to")
        assert [server.peers[0].headers[name] for name in ("Authorization", "X-Other")] == ["Bearer s3cret", "s3cret"]
        for line in ("raw on", "pub x", "list", "help"):
            shown.enter(line)
        shown.enter("quit")
        shown.wait_for_last("ended with 0")
        # tmux runs the command line with the header without showing it.
        assert not [line for line in shown.lines() if "s3cret" in line]
    assert "s3cret" not in (tmp_path / "juggler" / "history").read_text()


def test_the_history_survives_a_restart(tmp_path):
    for _ in range(2):
        with serving(Recorder()) as url, terminal(url, XDG_STATE_HOME=str(tmp_path)) as shown:
            prompt = shown.wait_for_prompt()
            if (tmp_path / "juggler" / "history").exists():
                shown.keys("Up", "Up")
                shown.wait_for_last(f'{prompt} pub news "kept"')
            else:
                shown.enter('pub news "kept"')
                shown.wait_for("published on news")
                shown.enter("quit")
                shown.wait_for_last("ended with 0")


def test_an_unusable_history_is_reported_once(tmp_path):
    (tmp_path / "juggler").write_text("a file where a directory should be")
    with serving(Recorder()) as url, terminal(url, XDG_STATE_HOME=str(tmp_path)) as shown:
        for channel in ("a", "b"):
            shown.enter(f"pub {channel}")
            shown.wait_for(f"published on {channel}")
        assert len([line for line in shown.lines() if "history disabled" in line]) == 1


@pytest.mark.parametrize(("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_turns_colours_off(variables, is_coloured):
    with serving(Recorder()) as url, terminal(url, **variables) as shown:
        shown.enter("nonsense")
        shown.wait_for("error: unknown command")
        shown.wait_for_prompt()
        coloured = [line for line in shown.lines("-e") if re.search(r"\x1b\[(\d+;)*3[1-6]m", line)]
        assert bool(coloured) == is_coloured


def test_it_needs_a_terminal():
    done = run("client", "ws://127.0.0.1:1/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "juggler client needs a terminal; for scripts use juggler call, pub and sub" in done.stderr
