"""A plan from a file is run as it is, or refused by name."""

import pytest
from msgspec.structs import replace

from isthmus.errors import InfeasibleError, InputError
from isthmus.planner.adopt import adopt, left_out, plan_for
from isthmus.planner.make import make_plan
from isthmus.planner.search.answer import best_plan
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.run import OuterSpec, RunSpec

RUN = RunSpec()
FLEET = FleetSpec(sites={"a": SiteSpec(nodes=[NodeSpec(chips={"cpu": 2})]), "b": SiteSpec()})


@pytest.fixture
def plan():
    return best_plan(FLEET, RUN, runnable=True)


def test_without_a_plan_one_is_made():
    assert plan_for(FLEET, RUN) == make_plan(FLEET, RUN)


def test_a_plan_of_this_run_is_kept(plan):
    assert adopt(plan, FLEET, RUN) == plan
    assert left_out(plan, FLEET) == []


def test_sites_may_be_left_out(plan):
    part = replace(plan, sites=plan.sites[:1])
    assert adopt(part, FLEET, RUN).sites == plan.sites[:1]
    assert left_out(part, FLEET) == ["b"]


def test_a_site_that_the_fleet_lacks(plan):
    fleet = FleetSpec(sites={"a": FLEET.sites["a"], "c": SiteSpec()})
    with pytest.raises(InputError, match="has a site 'b', the fleet has not"):
        adopt(plan, fleet, RUN)


def test_more_chips_than_the_fleet_has(plan):
    with pytest.raises(InputError, match="2 cpu, which the fleet's site does not have"):
        adopt(plan, FleetSpec(sites={"a": SiteSpec(), "b": SiteSpec()}), RUN)


def test_ranks_are_numbered_as_the_nodes_are():
    """A plan lists chips pool by pool, a launcher node by node."""
    nodes = [NodeSpec(chips={"a100": 2}), NodeSpec(chips={"h800": 1}), NodeSpec(chips={"a100": 1})]
    fleet = FleetSpec(sites={"a": SiteSpec(nodes=nodes)})
    found = best_plan(fleet, RUN, runnable=True)
    assert sorted(found.sites[0].chips) == ["a100", "a100", "a100", "h800"]
    assert adopt(found, fleet, RUN).sites[0].chips == ["a100", "a100", "h800", "a100"]


def test_what_the_run_leaves_open_is_the_plans(plan):
    chosen = replace(plan, inner_steps=7, codec="int4")
    assert adopt(chosen, FLEET, RUN).inner_steps == 7
    with pytest.raises(InputError, match=r"outer\.inner_steps: 7, where the run has 8"):
        adopt(chosen, FLEET, replace(RUN, outer=OuterSpec(inner_steps=8)))


def test_a_share_that_is_no_part_of_the_batch(plan):
    odd = replace(plan, sites=[replace(plan.sites[0], rank_batch=3, micro_batch=3), plan.sites[1]])
    with pytest.raises(InputError, match="are no batch of 16"):
        adopt(odd, FLEET, RUN)


def test_a_quorum_of_more_sites_than_there_are(plan):
    with pytest.raises(InfeasibleError, match="a quorum of 5"):
        adopt(plan, FLEET, replace(RUN, outer=OuterSpec(quorum=5)))


def test_a_site_on_a_shaped_link_is_run_like_others():
    fleet = FleetSpec(sites={"a": SiteSpec(link=LinkSpec(shape=True)), "b": SiteSpec()})
    assert adopt(best_plan(fleet, RUN, runnable=True), fleet, RUN).num_ranks == 2
