"""A master dies and its replica takes over, with real servers and sentinels, under load."""

from __future__ import annotations

from tests.integration.commands import callee_process, server_process
from tests.load import Load
from tests.redis_servers import sentinels
from tests.support import eventually


def test_service_moves_to_the_new_master(tmp_path):
    with (
        sentinels(tmp_path) as deployment,
        callee_process(deployment.url),
        server_process(deployment.url) as url,
        Load(url) as load,
    ):
        load.flows()
        deployment.master.kill()
        eventually(lambda: deployment.master_port() == deployment.replica.port, timeout=60)
        load.flows(timeout=60)
        # The old master comes back and becomes a replica, which is not used.
        deployment.master.start()
        eventually(deployment.master_is_demoted, timeout=60)
        load.flows()
        counts = load.counts()
    assert counts.refused > 0
    assert counts.expired <= load.most_under_way


def test_a_failover_on_demand_moves_the_service_too(tmp_path):
    with (
        sentinels(tmp_path) as deployment,
        callee_process(deployment.url),
        server_process(deployment.url) as url,
        Load(url) as load,
    ):
        load.flows()
        deployment.fail_over()
        load.flows(timeout=60)
        counts = load.counts()
    assert counts.expired <= load.most_under_way
