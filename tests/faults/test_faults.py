"""Failures, one by one, judged from outside by accounts that share no code with juggler (`loadtest.audit`).

The whole file takes less than two minutes on two cores.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress

import gevent

from loadtest.audit.accounts import CALL, PUB, SUB, Accounts
from loadtest.audit.client import AuditClient
from loadtest.frames import TEXT, frame
from loadtest.procfs import cpu_seconds, resident
from loadtest.raw_connection import RawConnection, request
from tests.faults.network import network
from tests.faults.traffic import Traffic, readiness
from tests.integration.commands import ROOT, environment
from tests.redis_cluster import RedisCluster
from tests.support import eventually

NOTES = "tests.faults.functions:rpc"
UNAVAILABLE, UNKNOWN = 503, 504
SILENT, TOO_SLOW = 4408, 4429
MIB = 2**20


def codes(traffic, type):
    """Return the codes of NACKs of requests of a type, and how often each came."""
    return Counter(each.code for each in traffic.requests if each.type == type and each.code is not None)


def without_expiry(client):
    """Return juggler's keys that never expire."""
    return [key for key in client.scan_iter("juggler:*") if client.pttl(key) == -1]


def verdict(accounts):
    accounts.judge(time.monotonic(), finally_=True)
    return accounts.violations.lines()


# Clients


def test_a_burst_to_many_subscribers_is_no_silence_of_redis(start_server):
    url, _ = start_server()
    command = [sys.executable, "-m", "loadtest.audit.fan_out", url, "--subscribers", "1000", "--burst", "600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout) == (0, "600,000 events arrived\n"), done.stdout + done.stderr
    assert readiness(url) == 200


def test_a_client_that_does_not_read(start_server):
    url, process = start_server()
    accounts = Accounts()
    with ExitStack() as stack:
        clients = [stack.enter_context(AuditClient(url, accounts)) for _ in range(3)]
        clients[0].wait(*(client.subscribe("large") for client in clients))
        slow = stack.enter_context(RawConnection(url))
        slow.upgrade()
        slow.send(request(SUB, channel="large"))
        assert b'"type":8' in slow.receive()[0]
        before = resident(process.pid)
        for _ in range(300):
            clients[0].wait(clients[0].publish("large", "x" * 100_000))
        eventually(lambda: accounts.arrived("large"), message="the others receive all events")
        assert resident(process.pid) - before < 20 * MIB
        with suppress(OSError):  # a reset, if it has not read the close frame in time
            while slow.close_code is None:
                slow.receive()
        assert slow.close_code in (None, TOO_SLOW)
        assert verdict(accounts) == []


def test_half_a_frame_and_a_byte_now_and_then(start_server):
    url, _ = start_server("tests.faults.impatient:server")
    accounts = Accounts()
    with AuditClient(url, accounts) as other, RawConnection(url, timeout=0.3) as slow:
        other.wait(other.subscribe("c"))
        slow.upgrade()
        text = frame(TEXT, b"x" * 1000, masked=True)
        slow.send(text[:500])
        since = time.monotonic()
        for byte in text[500:900]:
            with suppress(TimeoutError):
                slow.receive()
            if slow.close_code is not None:
                break
            assert time.monotonic() < since + 10, "it is closed"
            slow.send(bytes([byte]))
        assert slow.close_code == SILENT
        other.wait(other.publish("c"))
        eventually(lambda: accounts.arrived("c"))
        assert verdict(accounts) == []


# Redis


def test_the_connection_for_results_is_lost(mortal, start_server, start_callee):
    url, _ = start_server(redis=f"{mortal.url}?client_name=server")
    start_callee()
    with mortal.client() as admin, Traffic(url) as traffic, traffic.failure():
        clients = admin.client_list()
        # The latest one: the server has read commands since it started.
        popping = [each for each in clients if each["name"] == "server" and each["cmd"].startswith("blmpop")]
        reading = max(popping, key=lambda each: int(each["id"]))
        admin.config_set("maxclients", len(clients) - 1)
        admin.client_kill_filter(_id=reading["id"])
        eventually(lambda: readiness(url) == UNAVAILABLE)
        eventually(lambda: codes(traffic, CALL)[UNAVAILABLE] > 10, message="calls are refused")
        # Events need no results.
        assert not codes(traffic, PUB)
        admin.config_set("maxclients", 1000)
        eventually(lambda: readiness(url) == 200)
    assert set(codes(traffic, CALL)) == {UNAVAILABLE}


def test_what_was_refused_in_an_outage_of_the_network_has_no_effect_later(mortal, start_server, start_callee, notes):
    start_callee(target=NOTES, NOTES=notes.path)
    with network(mortal.port) as net, ExitStack() as stack:
        url, _ = start_server(redis=net.url)
        traffic = stack.enter_context(Traffic(url, uri="note"))
        with traffic.failure():
            net.is_down = True
            eventually(lambda: codes(traffic, CALL)[UNKNOWN] and codes(traffic, PUB)[UNKNOWN], message="silence")
            eventually(lambda: codes(traffic, CALL)[UNAVAILABLE], message="calls are refused")
            assert readiness(url) == UNAVAILABLE
            net.heal()
        assert traffic.finish() == []
        assert traffic.accounts.after_nack == 0
        ran = {str(value): when for when, value in notes()}
        assert len(ran) == len(notes()), "no call ran twice"
        nacked = [each for each in traffic.requests if each.type == CALL and each.code is not None]
        assert [each for each in nacked if ran.get(str(each.payload["args"]), 0) > each.answered] == []


def test_calls_that_redis_hands_out_twice_run_once(mortal, start_server, start_callee, notes):
    url, _ = start_server()
    accounts = Accounts(max_latency=60)
    with mortal.client() as admin, AuditClient(url, accounts) as client:
        calls = [client.call("note", number, 60, expected=number) for number in range(20)]
        client.wait(*calls)
        admin.save()
        start_callee(target=NOTES, NOTES=notes.path)
        assert client.wait(*calls, result=True)
        mortal.kill()
        mortal.start()
        # The callee takes the calls of the snapshot before those that follow.
        eventually(lambda: client.wait(last := client.call("note", "last", 60)) and last.acknowledged)
        eventually(lambda: [value for _, value in notes()][-1] == "last" and not admin.llen("juggler:calls:{note}"))
        assert Counter(value for _, value in notes() if value != "last") == Counter(range(20))
        eventually(lambda: not accounts.unanswered())
        assert verdict(accounts) == []


def test_lists_expire_although_connections_are_cut(mortal, start_server, start_callee):
    with mortal.client() as admin, network(mortal.port) as near, network(mortal.port) as far:
        url, process = start_server(redis=near.url)
        start_callee(target=NOTES, redis=far.url, NOTES="/dev/null")
        accounts = Accounts()
        with AuditClient(url, accounts) as client:
            client.wait(client.call("note", 1, 5, expected=1), result=True)
            cut = cut_before_the_expiry(near, b"juggler:calls:{nobody}")
            client.wait(client.call("nobody", 1, 30))
            assert cut, "the server's connection was cut"
            eventually(lambda: admin.llen("juggler:calls:{nobody}") == 1 and not without_expiry(admin))

            cut = cut_before_the_expiry(far, b"juggler:results:{")
            eventually(lambda: client.wait(client.subscribe("c")) and readiness(url) == 200, message="it reconnects")
            slow = client.call("wait", 1.5, 30)
            client.wait(slow)
            # Nothing pops the result while the server stands still.
            process.send_signal(signal.SIGSTOP)
            eventually(lambda: cut, message="the callee's connection is cut")
            eventually(lambda: admin.keys("juggler:results:{*}") and not without_expiry(admin))
            process.send_signal(signal.SIGCONT)
            assert client.wait(slow, result=True)


def cut_before_the_expiry(net, key):
    """Cut a connection once, after the push to a list and before its expiry. Return a list that then has an entry."""
    cuts = []

    def find(data):
        at = data.find(b"*4\r\n$7\r\nPEXPIRE", data.find(b"LPUSH")) if key in data and b"LPUSH" in data else -1
        if cuts or at < 0:
            return None
        cuts.append(at)
        return at

    net.cut_at = find
    return cuts


def test_redis_is_full(mortal, start_server, start_callee):
    url, _ = start_server()
    start_callee()
    with mortal.client() as admin, Traffic(url) as traffic, traffic.failure():
        admin.config_set("maxmemory", 1)
        eventually(lambda: codes(traffic, CALL)[UNAVAILABLE] > 5, message="calls are refused")
        eventually(lambda: readiness(url) == UNAVAILABLE)
        admin.config_set("maxmemory", 0)
        eventually(lambda: readiness(url) == 200)
    assert set(codes(traffic, CALL)) == {UNAVAILABLE}


def test_a_master_of_a_cluster_is_lost(start_server, start_callee):
    cluster = RedisCluster(masters=3, replicas=1)
    try:
        url, _ = start_server(redis=cluster.url)
        start_callee(redis=cluster.url)
        uri = next(
            uri for uri in ("test.echo", "test.reverse") if cluster.master_of(b"juggler:calls:{%s}" % uri.encode())
        )
        with Traffic(url, uri=uri) as traffic, traffic.failure():
            cluster.masters[0].kill()
            eventually(lambda: codes(traffic, CALL), message="calls are refused")
    finally:
        cluster.stop()


# Processes


def test_a_server_that_stands_still_closes_no_client_that_answers(start_server, start_callee):
    url, process = start_server("--ping-interval", "1", "--ping-timeout", "1")
    start_callee()
    with ExitStack() as stack, Traffic(url, timeout=10):
        idle = [stack.enter_context(RawConnection(url)) for _ in range(50)]
        for client in idle:
            client.upgrade()
        eventually(lambda: len(select.select(idle, [], [], 0)[0]) == len(idle), message="a ping to each")
        process.send_signal(signal.SIGSTOP)
        for client in idle:
            assert client.receive() == []
        gevent.sleep(4)
        process.send_signal(signal.SIGCONT)
        # Until the next ping has been answered.
        for client in idle:
            assert client.receive() == []
        gevent.sleep(1.5)
        for client in select.select(idle, [], [], 0)[0]:
            client.receive()
        assert [client.close_code for client in idle if client.close_code] == []


def test_reloading_and_stopping_a_server(start_server, start_callee):
    url, process = start_server("--workers", "2", "--grace", "5")
    start_callee(target=NOTES, NOTES="/dev/null")
    with Traffic(url, uri="wait", duration=0.3) as traffic:
        before = traffic.accounts.connections
        process.send_signal(signal.SIGHUP)
        eventually(lambda: traffic.accounts.connections >= before + 4, message="all clients have reconnected")
        traffic.flows()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def test_reloading_and_stopping_a_callee(start_server, start_callee):
    url, _ = start_server()
    first, second = (start_callee(target=NOTES, NOTES="/dev/null") for _ in range(2))
    with Traffic(url, uri="wait", duration=0.1) as traffic:
        first.send_signal(signal.SIGHUP)
        traffic.flows()
        second.send_signal(signal.SIGTERM)
        assert second.wait(15) == 0
        traffic.flows()
    assert not codes(traffic, CALL)


def test_callees_are_killed_in_the_middle_of_calls(mortal, start_server, start_callee):
    url, _ = start_server()
    victims = [start_callee(target=NOTES, NOTES="/dev/null") for _ in range(2)]
    with mortal.client() as admin, Traffic(url, uri="wait", duration=0.2, timeout=8) as traffic:
        with traffic.failure():
            for victim in victims:
                victim.kill()
                victim.wait()
                start_callee(target=NOTES, NOTES="/dev/null")
        assert not codes(traffic, CALL), "calls wait for the next callee"
        lost = [each for each in traffic.requests if each.acknowledged and not each.is_complete]
        assert len(lost) <= len(victims) * 8, "only calls in flight"
        eventually(lambda: admin.scard("juggler:callees:{wait}") == 2, message="the catalogue forgets killed callees")
        assert without_expiry(admin) == []


def test_a_callee_whose_output_is_closed(mortal, start_server, processes):
    url, _ = start_server()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "callee.cli", "callee.demo:rpc", "--redis", mortal.url]
    callee = processes.enter_context(subprocess.Popen(command, stdout=writer, stderr=writer, env=environment()))
    processes.callback(callee.kill)
    os.close(writer)
    with Traffic(url) as traffic:
        with traffic.failure():
            mortal.kill()
            eventually(lambda: readiness(url) == UNAVAILABLE)
            before = cpu_seconds(callee.pid)
            gevent.sleep(2)
            assert cpu_seconds(callee.pid) - before < 1, "it does not spin"
            mortal.start()
        assert traffic.finish() == []
        callee.send_signal(signal.SIGTERM)
        assert callee.wait(10) == 0
