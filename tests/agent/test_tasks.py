"""Which tasks of a launcher are nodes, and where they meet."""

import pytest
from msgspec.structs import replace

from isthmus.agent.rank import keeper_address, rank_place
from isthmus.planner.make import make_plan
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "chips", "count", "address"),
    [
        (TORCHRUN, 2, 2, ("127.0.0.1", 29501)),
        (SLURM, 4, 2, ("127.0.0.1", 27000)),
        (TORCHRUN, 1, 2, None),  # a task for each chip
        (TORCHRUN, 2, 1, None),  # two ranks of one node
        (TORCHRUN, 2, 4, None),  # neither: told as before
    ],
)
def test_a_task_for_each_node_is_a_node(spec, environment, chips, count, address):
    fleet = FleetSpec(sites={"here": SiteSpec(nodes=[NodeSpec(count=count, chips={"cpu": chips})])})
    place = rank_place(environment)
    assert place
    train = replace(spec.train, micro_batch_size=0)
    site = make_plan(fleet, replace(spec, train=train)).site("here")
    assert keeper_address(place, site, fleet.sites["here"], environment) == address
