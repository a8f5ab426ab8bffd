"""Real agents on loopback: nodes die, return, and lose their keeper."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(240)


def test_a_spare_takes_the_ranks_of_a_node_that_is_gone_and_the_node_returns_as_a_spare(cluster, undisturbed):
    cluster.start("local")
    cluster.start("b")
    cluster.wait_for_step(1)
    cluster.start("c", "--spare")
    cluster.wait_for_standby("c")
    assert not (cluster.run_dir("c").logs / "rank-here-1.log").exists()
    cluster.wait_for_step(10)
    before = cluster.steps()
    cluster.kill_node("b")
    killed_s = time.time()
    healed = cluster.wait(cluster.healed, "a heal")[0]
    print(f"a node was gone: healed after {healed.resumed_s - killed_s:.2f} s")
    assert healed.kind == "replace_node"
    assert healed.subjects == ["node-b", "rank-here-1"]
    assert healed.lost_steps == 0
    assert (cluster.run_dir("c").logs / "rank-here-1.log").exists()

    cluster.start("b")
    cluster.wait(lambda: "node b passed its check" in cluster.notes(), "a check of b")
    assert not cluster.processes("b", "--process"), "nothing was started there before"
    cluster.wait_for_standby("b")
    cluster.wait_for_step(before + 10)
    cluster.leave("b", "c")
    cluster.check_losses(undisturbed, healed.step)
    assert len(cluster.healed()) == 1
    for node in ("local", "b", "c"):
        assert not cluster.processes(node)


def test_a_keeper_that_is_killed_finds_its_nodes_again(cluster, undisturbed):
    cluster.start("local")
    cluster.start("b")
    cluster.wait_for_step(5)
    ranks = cluster.processes("local", "--rank 0") + cluster.processes("b", "--rank 1")
    assert len(ranks) == 2
    cluster.agents["local"].send_signal(signal.SIGKILL)
    cluster.agents["local"].wait()
    at = cluster.steps()
    cluster.wait_for_step(at + 5)  # they train on by themselves
    cluster.start("local")
    cluster.wait(lambda: cluster.notes().count("node b is there") == 2, "b finds it")
    at = cluster.steps()
    cluster.wait_for_step(at + 5)
    assert cluster.processes("local", "--rank 0") + cluster.processes("b", "--rank 1") == ranks
    assert not cluster.healed()
    cluster.leave("b")
    cluster.check_losses(undisturbed, at)


def test_a_node_that_lost_its_keeper_ends_its_ranks_when_the_lease_is_over(cluster):
    cluster.policy = {"lease_s": 4.0}
    cluster.start("local")
    cluster.start("b")
    cluster.wait_for_step(2)
    cluster.agents["local"].send_signal(signal.SIGKILL)
    lost_s = time.monotonic()
    cluster.wait(lambda: not cluster.processes("b", "--rank 1"), "the end of its rank")
    assert time.monotonic() - lost_s > 2.0
    assert cluster.agents["b"].poll() is None
    os.kill(cluster.agents["b"].pid, signal.SIGTERM)
    cluster.end("b")
