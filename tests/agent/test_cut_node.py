"""A node behind a link of its own that is cut: the others go on, and its ranks end in time."""

import time

import pytest

from isthmus.journal import events
from isthmus_bench.netns import LinkShape, can_use_namespaces, star

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_use_namespaces(), reason="needs root and network namespaces"),
]


def test_a_node_that_is_cut_off(cluster):
    with star({"b": LinkShape(1e9, 0.0005)}) as net:
        cluster.prefixes = {"local": net.server_prefix(), "b": net.site_prefix("b")}
        cluster.host, cluster.policy = net.server_host, {"lease_s": 9.0}
        cluster.start("local", "--address", "10.77.0.1")
        cluster.start("b")
        cluster.wait_for_step(3)
        net.cut("b", 25.0)
        cut_s = time.time()
        healed = cluster.wait(cluster.healed, "a heal")[0]
        print(f"a node was cut off: healed after {healed.resumed_s - cut_s:.2f} s")
        assert healed.kind == "shrink"
        assert healed.lost_steps == 0
        cluster.wait(lambda: not cluster.processes("b", "--rank 1"), "the end of the rank that was cut off")
        alone = cluster.steps()
        cluster.wait_for_step(alone + 3)
        cluster.wait(lambda: "node b passed its check" in cluster.notes(), "b is back and checked")
        grown = cluster.wait(lambda: [one for one in cluster.healed() if one.kind == "grow"], "b has a place")
        cluster.wait_for_step(grown[0].step + 2)
        steps = [event.step for event in cluster.told(events.StepDone)]
        assert steps == list(range(1, len(steps) + 1)), "one group stepped at a time, and none was lost"
        cluster.leave("b")
