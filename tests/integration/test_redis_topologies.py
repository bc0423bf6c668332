"""Redis behind TLS, a password, ACL rules, a UNIX socket or sentinels, and as two servers: all of them real."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import gevent
import pytest
import redis
import trustme

from juggler.broker import Announcement, ControlListener, IncomingCall, ServerListener
from juggler.broker.redis import RedisBroker
from juggler.client import Client
from juggler.errors import BrokerError, BrokerUnavailable, ConfigError, Expired, Nacked
from juggler.process.embedded import free_port
from juggler.process.uuids import new_uuid
from juggler.protocol.server_status import ServerStatus
from tests.integration.commands import ROOT, callee_process, run, run_python, running, running_callee, server_process
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber
from tests.redis_servers import MortalRedis, mortal_redis, one_sentinel, tls_proxy
from tests.stack import serving
from tests.support import eventually

REDIS_DOC = (ROOT / "docs" / "redis.md").read_text()
ACL_LINES = re.findall(r"^ACL SETUSER (.*)$", REDIS_DOC, re.MULTILINE)


@contextmanager
def served(redis_url: str, callee_url: str | None = None, *args: str) -> Iterator[Client]:
    """Run a server and a callee process, and yield a client."""
    with (
        callee_process(callee_url or redis_url, *args),
        server_process(redis_url, *args) as url,
        Client(url) as client,
    ):
        yield client


def check(client: Client) -> None:
    """Check that calls are answered, and that events arrive on a channel and on a pattern."""
    with client.subscribe("news") as news, client.subscribe("n*", pattern=True) as matching:
        assert client.call("test.echo", [1]) == [1]
        client.publish("news", 2)
        assert (news.get(5).args, matching.get(5).args) == (2, 2)


# UNIX socket, password, ACL


def test_a_unix_socket(mortal, tmp_path):
    path = tmp_path / "redis.sock"
    mortal.start("--unixsocket", str(path))
    with served(f"unix://{path}?db=3") as client:
        check(client)


def test_a_password(mortal):
    mortal.start("--requirepass", "s/e@c?r%t")
    with served(mortal.url.replace("//", "//:s/e@c%3Fr%25t@")) as client:
        check(client)


def test_commands_exit_with_a_wrong_password(mortal):
    mortal.start("--requirepass", "secret")
    url = mortal.url.replace("//", "//:wrong@")
    done = run("server", "--bind", "127.0.0.1:0", "--redis", url)
    assert done.returncode == 2
    assert re.fullmatch(r"juggler server: Redis at redis://:\*\*\*@\S+ refuses access: .*password.*\n", done.stderr)


@pytest.fixture
def acl_server(mortal) -> MortalRedis:
    """A server that accepts only the user ``admin``."""
    mortal.start()
    with mortal.client() as client:
        client.execute_command("ACL", "SETUSER", "admin", "on", ">password", "allkeys", "allchannels", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")
    return mortal


@contextmanager
def admin(server: MortalRedis) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, username="admin", password="password", protocol=2) as client:
        yield client


def with_user(client: redis.Redis, server: MortalRedis, line: str) -> str:
    """Create or change the user of an ``ACL SETUSER`` line, and return a URL with it."""
    client.execute_command("ACL", "SETUSER", *line.split())
    return server.url.replace("//", f"//{line.split()[0]}:password@")


def test_the_documented_permissions_are_enough(acl_server):
    with admin(acl_server) as client:
        server_url, callee_url = (with_user(client, acl_server, line) for line in ACL_LINES)
        with served(server_url, callee_url) as juggler, closing(RedisBroker(server_url)) as broker:
            check(juggler)
            broker.connect()
            assert len(broker.functions()) == 3
        assert client.acl_log() == []


def test_the_permissions_documented_for_capacities_prefixes_and_old_servers_are_enough(acl_server):
    options = {"call_capacity": 5, "result_capacity": 5, "key_prefix": "shop:", "legacy": True}
    with admin(acl_server) as client, ExitStack() as stack:
        server, callee = (
            stack.enter_context(
                closing(RedisBroker(f"{with_user(client, acl_server, line)}/1?client_name=c", **options))
            )
            for line in (documented_for_more(line) for line in ACL_LINES)
        )
        stack.enter_context(serving(callee, ["u"], lambda call: call.args))
        call, published = RecordedCall(), Outcome()
        server.call("u", b"1", 5.0, call)
        server.publish("c", new_uuid(), b"1", published)
        assert call.wait(2) == [("stored", None), ("result", b"1")]
        assert published.wait() is None
        assert client.acl_log() == []


@pytest.mark.parametrize("count", [10, 300])
def test_many_uris_are_served_without_the_permissions_for_faster_methods(acl_server, caplog, count):
    with admin(acl_server) as client, ExitStack() as stack:
        brokers = (RedisBroker(with_user(client, acl_server, line)) for line in ACL_LINES)
        server, callee = (stack.enter_context(closing(broker)) for broker in brokers)
        uris = [f"u{number}" for number in range(count)]
        calls = [RecordedCall() for _ in uris]
        for uri, call in zip(uris, calls, strict=True):
            server.call(uri, b"1", 5.0, call)
        for call in calls:
            call.wait(1)
        stack.enter_context(serving(callee, uris, lambda call: call.args))
        assert [call.wait(2)[1] for call in calls] == [("result", b"1")] * count
        logged = [record.getMessage().partition(" is not permitted ")[0] for record in caplog.records]
        # Once for each faster method, and useless connections are closed.
        assert logged == ["redis: tracking many URIs", "redis: polling many URIs"][-1 if count == 10 else 0 :]
        assert not any(set("tP") & set(each["flags"]) for each in client.client_list())


def test_the_permissions_documented_for_very_many_uris_are_enough(acl_server, caplog):
    (more,) = re.findall(r"^\| a callee serves 200 URIs or more \| for callees `(.*)`", REDIS_DOC, re.MULTILINE)
    uris = [f"u{number}" for number in range(200)]
    with admin(acl_server) as client, ExitStack() as stack:
        url = with_user(client, acl_server, f"{ACL_LINES[1]} {more.replace(chr(92), '')}")
        callee = stack.enter_context(closing(RedisBroker(url)))
        stack.enter_context(serving(callee, uris, lambda call: call.args))
        eventually(lambda: any("t" in each["flags"] for each in client.client_list()))
        server = stack.enter_context(closing(RedisBroker(with_user(client, acl_server, ACL_LINES[0]))))
        call = RecordedCall()
        server.call(uris[7], b"1", 5.0, call)
        assert call.wait(2)[1] == ("result", b"1")
        assert client.acl_log() == []
    assert caplog.records == []


def documented_for_more(line: str) -> str:
    line = line.replace("~juggler:*", "~shop:juggler:*").replace("&*", "&shop:*").replace("+blmpop", "+brpop +rpop")
    return f"{line} +eval +evalsha +llen +select +client|setname"


class Running(ControlListener):
    """Runs one call, which is looked up when the connection is up: it may have been cancelled."""

    def on_cancel(self, call_id: str) -> None: ...

    def on_credit(self, call_id: str, until: int) -> None: ...

    def running(self) -> list[IncomingCall]:
        return [IncomingCall(new_uuid(), new_uuid(), "u", b"1", 0.0, 0.0)]


class Listening(ServerListener):
    """A server that is announced."""

    server_id = "00000000-0000-4000-8000-000000000001"

    def on_command(self, command: object, answer: object) -> None: ...

    def status(self) -> ServerStatus:
        return ServerStatus(self.server_id)


@pytest.mark.parametrize(
    ("line", "right"), [(line, right) for line in ACL_LINES for right in line.split() if right[0] in "+&~"]
)
def test_each_documented_permission_is_needed(acl_server, line, right):
    """Without it, Redis refuses something and logs the refusal."""
    with admin(acl_server) as client, ExitStack() as stack:
        lacking = stack.enter_context(
            closing(RedisBroker(with_user(client, acl_server, line.replace(f" {right}", ""))))
        )
        other = stack.enter_context(closing(RedisBroker(acl_server.url.replace("//", "//admin:password@"))))
        server, callee = (lacking, other) if line == ACL_LINES[0] else (other, lacking)
        server.attend(Listening())
        callee.listen("one", Running())
        stack.callback(callee.unlisten, "one")
        with suppress(ConfigError):
            lacking.connect()
        stack.enter_context(serving(callee, ["u"], lambda call: call.args))
        choosing, chosen = callee.calls(["chosen"]), RecordedCall()
        server.call("chosen", b"1", 60.0, chosen)
        done = Outcome()
        server.call("u", b"1", 5.0, RecordedCall())
        # One that expires in a list that does not: it is removed.
        for timeout in (0.05, 5.0):
            server.call("nobody", b"1", timeout, RecordedCall())
        subscribers = [RecordedSubscriber(), RecordedSubscriber()]
        for pattern, subscriber in zip((False, True), subscribers, strict=True):
            server.subscribe("c", pattern, subscriber, done)
        server.publish("c", new_uuid(), b"1", done)
        eventually(lambda: len(done.told) == 3)
        for subscriber in subscribers:
            server.unsubscribe_all(subscriber)
        refused = {"+": ("command", right[1:]), "~": ("key", "juggler:"), "&": ("channel", "c")}[right[0]]

        def is_refused() -> bool:
            # Functions are announced, withdrawn and listed, all on connections of their own.
            callee.announce("one", {"u": Announcement(), "chosen": Announcement()}, 0.2)
            callee.announce("two", {"gone": Announcement()}, 60)
            callee.withdraw("two", ["gone"])
            with suppress(BrokerError):
                server.functions()
                if choosing.pop_chosen(1, lambda clients: list(range(len(clients)))):
                    server.cancel(chosen)
            return any(is_about(entry, *refused) for entry in client.acl_log())

        eventually(is_refused, message=f"{refused} is refused")


def is_about(entry: dict[str, str], kind: str, name: str) -> bool:
    return entry["reason"] == kind and entry["object"].lower().startswith(name)


@contextmanager
def connected(server: subprocess.Popen[str]) -> Iterator[Client]:
    """Yield a client of a server that has just been started."""
    with Client(re.search(r"ws://\S+", server.stdout.readline()).group()) as client:
        yield client


def test_a_missing_permission_is_named_in_the_log_and_not_to_clients(acl_server):
    with admin(acl_server) as client:
        url = with_user(client, acl_server, ACL_LINES[0].replace(" +publish", "").replace(" &*", " &news"))
        with running("server", "--bind", "127.0.0.1:0", "--redis", url) as server, connected(server) as juggler:
            juggler.subscribe("news").close()
            for refuse, named in (
                (lambda: juggler.publish("news"), r"'publish' command"),
                (lambda: juggler.subscribe("olds"), r"channel"),
            ):
                with pytest.raises(Nacked, match=r"^500 Redis refused the request$"):
                    refuse()
                assert re.search(rf"NOPERM .*{named}", server.stderr.readline())
        url = with_user(client, acl_server, "juggler-server -pexpire")
        done = run("server", "--bind", "127.0.0.1:0", "--redis", url)
    assert done.returncode == 2
    assert re.fullmatch(r"juggler server: Redis at \S+ refuses access: .*'pexpire' command\n", done.stderr)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path) -> str:
    """The path of the authority's certificate."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def tls_context(authority: trustme.CA, name: str, *, client_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


def test_tls(mortal, authority, trusted):
    mortal.start("--requirepass", "secret")
    with (
        tls_proxy(tls_context(authority, "localhost"), mortal.port) as port,
        served(f"rediss://:secret@localhost:{port}?ssl_ca_certs={trusted}") as client,
    ):
        check(client)


def test_tls_with_a_client_certificate(mortal, authority, trusted, tmp_path):
    mortal.start()
    own = tmp_path / "own.pem"
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(own)
    with tls_proxy(tls_context(authority, "localhost", client_certificate=True), mortal.port) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={trusted}"
        with closing(RedisBroker(url)) as broker, pytest.raises(BrokerUnavailable):
            broker.connect()
        with closing(RedisBroker(f"{url}&ssl_certfile={own}")) as broker:
            broker.connect()


@pytest.mark.parametrize(
    ("name", "query", "reason"),
    [
        ("localhost", "", "CERTIFICATE_VERIFY_FAILED.*unable to get local issuer certificate|self.signed certificate"),
        ("other.example", "ssl_ca_certs={ca}", "Hostname mismatch"),
        ("other.example", "ssl_ca_certs={ca}&ssl_check_hostname=no", None),
        ("localhost", "ssl_cert_reqs=none", None),
    ],
)
def test_tls_verifies(mortal, authority, trusted, name, query, reason):
    mortal.start()
    with tls_proxy(tls_context(authority, name), mortal.port) as port:
        url = f"rediss://localhost:{port}?{query.format(ca=trusted)}".rstrip("?")
        with closing(RedisBroker(url)) as broker:
            if reason is None:
                broker.connect()
            else:
                with pytest.raises(BrokerUnavailable, match=reason):
                    broker.connect()


def test_closing_over_tls_logs_nothing(mortal, authority, trusted, caplog):
    mortal.start()
    with tls_proxy(tls_context(authority, "localhost"), mortal.port) as port:
        for turns in range(20):
            with closing(RedisBroker(f"rediss://localhost:{port}?ssl_ca_certs={trusted}")) as broker:
                broker.connect()
                for _ in range(200):
                    broker.publish("c", new_uuid(), b"1", lambda error: None)
                # Close in the middle of sending and receiving.
                for _ in range(turns):
                    gevent.sleep(0)
    assert caplog.records == []


def test_large_payloads_both_ways_over_tls(mortal, authority, trusted):
    mortal.start()
    text = b'"%b"' % (b"x" * 1_000_000)
    with (
        tls_proxy(tls_context(authority, "localhost"), mortal.port) as port,
        closing(RedisBroker(f"rediss://localhost:{port}?ssl_ca_certs={trusted}")) as broker,
        serving(broker, ["u"], lambda call: call.args),
    ):
        calls = [RecordedCall() for _ in range(10)]
        for call in calls:
            broker.call("u", text, 20.0, call)
        for call in calls:
            assert call.wait(2) == [("stored", None), ("result", text)]


def test_sentinels_and_master_behind_tls(tmp_path, authority, trusted):
    context = tls_context(authority, "127.0.0.1")
    with (
        mortal_redis(tmp_path) as master,
        tls_proxy(context, master.port) as master_port,
        one_sentinel(tmp_path, master_port, "secret") as sentinel,
        tls_proxy(context, sentinel) as port,
    ):
        master.start()
        url = f"rediss+sentinel://127.0.0.1:1,127.0.0.1:{port}/mymaster?ssl_ca_certs={trusted}"
        with (
            closing(RedisBroker(url)) as broker,
            pytest.raises(BrokerUnavailable, match=r"no sentinel of 127.0.0.1:1,"),
        ):
            broker.connect()
        with served(f"{url}&sentinel_password=secret") as client:
            check(client)


# Two servers, prefixes


def test_two_servers(mortal, tmp_path):
    mortal.start()
    with mortal_redis(tmp_path) as events:
        events.start()
        with (
            callee_process(mortal.url),
            server_process(mortal.url, "--pubsub-redis", events.url) as url,
            Client(url) as client,
        ):
            check(client)
            with client.subscribe("news") as news, events.client() as there, mortal.client() as here:
                assert (here.pubsub_channels(), there.pubsub_channels()) == ([], [b"news"])
                events.kill()
                eventually(lambda: is_refused(lambda: client.publish("news")))
                assert client.call("test.echo", 1) == 1, "calls do not need the other one"
                events.start()
                eventually(lambda: not is_refused(lambda: client.publish("news", 5)))
                eventually(lambda: there.pubsub_channels() == [b"news"])
                client.publish("news", 6)
                while news.get(5).args != 6:
                    pass


def is_refused(request) -> bool:
    try:
        request()
    except Nacked as error:
        return error.code == 503
    return False


def test_two_deployments_share_a_server_by_their_prefixes(mortal):
    mortal.start()
    with (
        served(mortal.url, None, "--key-prefix", "a*:") as one,
        server_process(mortal.url, "--key-prefix", "ab:") as url,
        Client(url) as other,
        other.subscribe("*", pattern=True) as strange,
    ):
        check(one)
        with pytest.raises(Expired):
            other.call("test.echo", 1, timeout=0.2)
        other.publish("last", 3)
        assert strange.get(5).args == 3


def test_a_wrong_prefix_is_refused():
    done = run("server", "--bind", "127.0.0.1:0", "--key-prefix", "{a}")
    error = "config: [redis] key_prefix: expected a string without braces, got '{a}' (--key-prefix)\n"
    assert (done.returncode, done.stderr) == (2, error)


# No Redis at the start


def test_commands_wait_for_a_redis_with_a_given_url(mortal):
    with (
        running("server", "--bind", "127.0.0.1:0", "--redis", mortal.url) as server,
        running_callee("--redis", mortal.url) as callee,
    ):
        for process, name in ((server, "juggler server"), (callee, "juggler-callee")):
            for _ in range(2):
                line = process.stderr.readline()
                assert re.fullmatch(rf"{name}: no Redis at {mortal.url} \(.*\), retrying in \d+\.\d s\n", line)
        mortal.start()
        with Client(re.search(r"ws://\S+", server.stdout.readline()).group()) as client:
            assert callee.stdout.readline().startswith("serving ")
            check(client)


# There may be a Redis at the default address, so the default is changed.
AT_ANOTHER_DEFAULT = """
from gevent import monkey; monkey.patch_all()
import sys, juggler.broker.redis
juggler.broker.redis.DEFAULT_URL = sys.argv.pop(1)
from {module} import main
main()
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("juggler.cli.main", ["server", "--bind", "127.0.0.1:0"]), ("callee.cli", ["callee.demo:rpc"])],
)
def test_commands_without_a_url_do_not_wait(module, arguments):
    default = f"redis://127.0.0.1:{free_port()}"
    done = run_python("-c", AT_ANOTHER_DEFAULT.format(module=module), default, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"no Redis at {default}: start" in done.stderr
    assert " with --redis or REDIS_URL" in done.stderr
