"""What is done after an event, and what it is worth."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.failures.assumptions import Assumptions
from isthmus.planner.make import make_plan
from isthmus.planner.plan import Plan
from isthmus.planner.replan.event import parse_event
from isthmus.planner.replan.option import Replan
from isthmus.planner.replan.replan import replan
from isthmus.planner.search.answer import best_plan
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec, TrunkSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, OuterSpec, ParallelSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Count, Seconds

LINK = LinkSpec(bandwidth=Bandwidth(1e10), delay=Seconds(0.03))
FLEET = FleetSpec(
    sites={
        "east": SiteSpec(nodes=[NodeSpec(count=5, chips={"h800": 8})], link=LINK),
        "west": SiteSpec(nodes=[NodeSpec(count=8, chips={"a800": 8})], link=LINK),
    },
    trunks={"sea": TrunkSpec(sites=["east", "west"], bandwidth=Bandwidth(1e10))},
)
RUN = RunSpec(
    model=presets["skywork-13b"],
    data=DataSpec(seq_len=4096),
    train=TrainSpec(batch_size=256, tokens=Count(10**12), micro_batch_size=1),
    outer=OuterSpec(inner_steps=50),
    parallel=ParallelSpec(tp=1, cp=1, pp=4, virtual=1, sharding="optimizer", recompute="none"),
)
EAST_ALONE = replace(FLEET, sites={"east": FLEET.sites["east"]}, trunks={})


@pytest.fixture(scope="module")
def plan() -> Plan:
    """East: 4 stages x 10 replicas. West: 4 stages x 16 replicas. No idle node."""
    return best_plan(FLEET, RUN)


def after(
    plan: Plan, *events: str, fleet: FleetSpec = FLEET, run: RunSpec = RUN, hours: float = 24
) -> Replan:
    return replan(plan, fleet, run, [parse_event(text) for text in events], horizon_s=hours * 3600)


def options(found: Replan) -> dict:
    return {option.name: option for option in found.options}


def sites(option) -> dict:
    return {price.site: price for price in option.sites}


def test_prices_add_up(plan):
    found = after(plan, "slow west speed=0.5 lasts=6h")
    for option in found.options:
        if not option.sites:
            assert option.why
            continue
        assert option.tokens == pytest.approx(sum(price.tokens for price in option.sites))
        assert option.gained_tokens == pytest.approx(option.tokens - found.options[0].tokens)
        for price in option.sites:
            assert price.tokens_per_s == pytest.approx(256 * 4096 / price.step_s)
            busy = price.tokens_per_s * max(0, price.until_s - price.stands_s)
            later = price.later_tokens_per_s * (found.horizon_s - max(price.until_s, price.stands_s))
            assert price.tokens == pytest.approx(busy + later)
    assert found.options[0].name == "do nothing"
    assert sum(option.chosen for option in found.options) == 1
    best = max(option.tokens for option in found.options)
    assert found.chosen.tokens == best


def test_nothing_is_done_about_a_hardly_slower_node(plan):
    found = after(plan, "slow west speed=0.9999")
    assert found.chosen.name == "do nothing"
    assert found.plan == plan
    assert found.chosen.move_bytes == found.chosen.restart_s == 0


def test_nothing_is_done_for_a_short_time(plan):
    assert after(plan, "slow west speed=0.5", hours=0.04).chosen.name == "do nothing"
    assert after(plan, "slow west speed=0.5 lasts=2min").chosen.name == "do nothing"


def test_layers_are_cut_again_for_a_lasting_slow_node(plan):
    found = after(plan, "slow west speed=0.5")
    chosen = found.chosen
    assert chosen.name == "cut the layers again"
    assert chosen.move_bytes > 0
    still = options(found)["do nothing"]
    assert sites(chosen)["west"].step_s < sites(still)["west"].step_s
    # Twice the time on the slowest of four stages; the other three and east are as before.
    assert sites(still)["west"].step_s / plan.site("west").step_s == pytest.approx(2, rel=0.15)
    assert sites(chosen)["east"] == sites(still)["east"]
    fast, slow = found.plan.site("west").pipelines
    assert (fast.layout.dp, slow.layout.dp) == (8, 8)
    assert [stage.held_layers for stage in slow.stages] == [stage.held_layers for stage in fast.stages]
    old = [stage.held_layers for stage in plan.site("west").pipelines[0].stages]
    assert min(stage.held_layers for stage in slow.stages) < min(old)
    assert sum(stage.held_layers for stage in slow.stages) == 52
    assert found.plan.site("east").pipelines == plan.site("east").pipelines


def test_the_named_stage_is_the_slow_one(plan):
    found = after(plan, "slow west speed=0.5 stage=2")
    layers = [stage.held_layers for stage in found.plan.site("west").pipelines[0].stages]
    assert found.chosen.name == "cut the layers again"
    assert layers.index(min(layers)) == 2
    with pytest.raises(InputError, match="stage 4 is not on a800"):
        after(plan, "slow west speed=0.5 stage=4")


def test_shifting_takes_micro_batches_from_the_slow_replicas():
    fleet = replace(FLEET, sites={"west": SiteSpec(nodes=[NodeSpec(count=16, chips={"a800": 8})])}, trunks={})
    plan = best_plan(fleet, RUN)
    still = after(plan, "slow west speed=0.5", fleet=fleet)
    shifted = options(still)["shift the batch"]
    assert shifted.step_s < options(still)["do nothing"].step_s
    assert shifted.move_bytes == 0
    assert shifted.restart_s == 120


def test_a_lost_node_is_replaced_by_an_idle_one(plan):
    nodes = [NodeSpec(count=9, chips={"a800": 8})]
    more = replace(FLEET, sites={**FLEET.sites, "west": replace(FLEET.sites["west"], nodes=nodes)})
    found = after(plan, "lost west", fleet=more)
    still = options(found)["do nothing"]
    assert "idle nodes replace" in still.why
    assert sites(still)["west"].step_s == pytest.approx(plan.site("west").step_s)
    assert 150 < sites(still)["west"].stands_s < 600
    assert still.move_bytes > 0
    slow = after(plan, "slow west speed=0.5", fleet=more)
    assert slow.chosen.name in ("use spares", "plan the sites again")
    assert sites(options(slow)["use spares"])["west"].step_s == pytest.approx(plan.site("west").step_s)


def test_without_an_idle_node_the_site_stands_or_drops_replicas(plan):
    found = after(plan, "lost west")
    still = sites(options(found)["do nothing"])
    assert still["west"].tokens == 0
    assert still["west"].stands_s == Assumptions().repair
    dropped = sites(options(found)["drop replicas"])
    assert dropped["east"] == still["east"]
    assert dropped["west"].step_s > plan.site("west").step_s
    assert dropped["west"].tokens > 0
    # 8 of 16 replicas had a stage on the node; 14 fit on the 7 nodes that are left.
    assert sum(line.layout.dp for line in found.plan.site("west").pipelines) == 14
    assert found.chosen.name == "regroup replicas"
    assert dropped["west"].step_s > sites(found.chosen)["west"].step_s > plan.site("west").step_s
    soon = after(plan, "lost west lasts=1min")
    assert soon.chosen.name == "do nothing"


def test_a_trunk_hidden_behind_training_costs_elastic_sites_nothing(plan):
    for text in ("trunk sea factor=0.5", "link west factor=0.5"):
        found = after(plan, text)
        assert found.chosen.name == "do nothing"
        assert found.chosen.tokens_per_s == pytest.approx(plan.expected.tokens_per_s)


def test_strict_sites_wait_for_a_slow_trunk(plan):
    run = replace(RUN, outer=replace(RUN.outer, mode="strict", inner_steps=2, quorum=1))
    strict = best_plan(FLEET, run)
    whole = after(strict, "trunk sea factor=0.99999", run=run).options[0]
    slow = after(strict, "trunk sea factor=0.01", run=run).options[0]
    assert slow.tokens_per_s < 0.5 * whole.tokens_per_s
    assert slow.sites[0].tokens_per_s == slow.sites[1].tokens_per_s


def test_a_site_that_is_back_trains_again():
    alone = best_plan(EAST_ALONE, RUN)
    found = after(alone, "back west")
    assert found.chosen.name == "plan the sites again"
    assert {site.name for site in found.plan.sites} == {"east", "west"}
    chosen = sites(found.chosen)
    assert chosen["east"].stands_s == 0
    assert chosen["west"].stands_s > 120
    # the published version in fp32, over 0.8 of half the trunk
    assert found.chosen.move_bytes == 4 * alone.num_params
    assert found.chosen.move_s >= 4 * alone.num_params * 8 / (0.8 * 5e9)


def test_a_lost_site_is_done_without(plan):
    found = after(plan, "lost-site west")
    assert found.chosen.name == "do nothing"
    assert sites(found.chosen)["west"].tokens == 0
    assert sites(found.chosen)["east"].tokens > 0
    back = after(plan, "lost-site west lasts=6h")
    west = sites(back.chosen)["west"]
    restart_s = west.stands_s - 6 * 3600
    assert 120 < restart_s < 600
    assert west.tokens == pytest.approx(west.tokens_per_s * (18 * 3600 - restart_s))


def test_several_events(plan):
    found = after(plan, "slow west speed=0.5", "slow east speed=0.8")
    one = options(after(plan, "slow west speed=0.5"))["do nothing"]
    assert sites(options(found)["do nothing"])["west"] == sites(one)["west"]
    assert options(found)["do nothing"].tokens < one.tokens


def test_experts_slow_each_other():
    """Replicas that share experts wait for each other in every layer, so one slow node slows all of them."""
    model = presets["qwen3-30b-a3b"]
    fleet = FleetSpec(sites={"west": SiteSpec(nodes=[NodeSpec(count=4, chips={"a800": 8})])})
    run = replace(RUN, model=model, parallel=replace(RUN.parallel, pp=2, ep=8, etp=1))
    plan = best_plan(fleet, run)
    found = after(plan, "slow west speed=0.5", fleet=fleet, run=run)
    dropped = options(found)["drop replicas"]
    assert sites(dropped)["west"].step_s == pytest.approx(2 * plan.site("west").step_s, rel=0.1)


def test_what_does_not_go_together(plan):
    with pytest.raises(InputError, match="no event"):
        replan(plan, FLEET, RUN, [])
    with pytest.raises(InputError, match="'west' is not in the fleet"):
        after(plan, "back east", fleet=EAST_ALONE)
    nodes = [NodeSpec(count=7, chips={"a800": 8})]
    less = replace(FLEET, sites={**FLEET.sites, "west": replace(FLEET.sites["west"], nodes=nodes)})
    with pytest.raises(InputError, match="more chips"):
        after(plan, "slow west speed=0.5", fleet=less)
    small = replace(RUN, model=presets["tiny"], data=DataSpec(seq_len=256), parallel=ParallelSpec())
    small = replace(small, train=TrainSpec(batch_size=320))
    with pytest.raises(InputError, match="does not say how the model lies"):
        after(make_plan(FLEET, small), "back east", run=small)
    with pytest.raises(InputError, match="parameters; the run has"):
        after(plan, "back east", run=small)
    with pytest.raises(InputError, match="assumed to be"):
        replan(plan, FLEET, RUN, [parse_event("lost west")], assume=Assumptions(write=Bandwidth(0)))


def test_the_answer_is_json_and_a_plan_that_can_be_replanned(plan):
    found = after(plan, "slow west speed=0.5")
    told = msgspec.json.decode(msgspec.json.encode(found, enc_hook=float))
    assert told["events"] == [{"type": "slow", "site": "west", "speed": 0.5, "chip": "", "nodes": 1,
                               "stage": -1, "lasts": 0.0}]  # fmt: skip
    stage = int(found.options[0].why.split("stage ")[1].split()[0])
    running = msgspec.json.decode(msgspec.json.encode(found.plan), type=Plan)
    again = after(running, f"slow west speed=0.5 stage={stage}")
    assert again.options[0].tokens_per_s == pytest.approx(found.chosen.tokens_per_s, rel=0.01)


TEXTS = st.one_of(
    st.builds("slow {} speed={:.2f} nodes={}".format, SITES := st.sampled_from(["east", "west"]),
              st.floats(0.2, 1.0), st.integers(1, 2)),
    st.builds("lost {} nodes={}".format, SITES, st.integers(1, 2)),
    st.builds("link {} factor={:.2f}".format, SITES, st.floats(0.1, 1.0)),
    st.builds("lost-site {}".format, SITES),
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(text=TEXTS, hours=st.sampled_from([0.02, 0.5, 24]))
def test_never_worse_than_doing_nothing_and_always_the_same(plan, text, hours):
    found = after(plan, text, hours=hours)
    assert found.chosen.gained_tokens >= 0
    assert after(plan, text, hours=hours) == found
    for option in found.options:
        assert 0 <= option.tokens <= found.chosen.tokens
    gone = text.split()[1] if text.startswith("lost-site") else ""
    if not found.chosen.name.startswith("do nothing"):
        assert gone not in {site.name for site in found.plan.sites}
        rate = sum(price.tokens_per_s for price in found.chosen.sites)
        assert found.plan.expected.tokens_per_s == pytest.approx(rate, rel=1e-6)


def test_a_pipeline_over_sites():
    """Neither site can hold the model alone, so all of it stands when one is gone."""
    link = LinkSpec(bandwidth=Bandwidth(1e11), delay=Seconds(0.001))
    nodes = {"east": NodeSpec(chips={"h800": 8}), "west": NodeSpec(count=2, chips={"a800": 8})}
    fleet = FleetSpec(sites={name: SiteSpec(nodes=[node], link=link) for name, node in nodes.items()})
    parallel = ParallelSpec(tp=4, cp=1, virtual=1, sharding="optimizer")
    run = replace(RUN, model=presets["llama-3-70b"], parallel=parallel)
    plan = best_plan(fleet, run)
    assert len(plan.sites) == 1
    (head,) = (site.name for site in plan.sites)
    slow = after(plan, "slow west speed=0.5", fleet=fleet, run=run)
    assert slow.chosen.name == "cut the layers again"
    assert slow.chosen.step_s < options(slow)["do nothing"].step_s
    line = after(plan, "link east factor=0.01 lasts=1h", fleet=fleet, run=run).options[0]
    assert line.sites[0].tokens_per_s < line.sites[0].later_tokens_per_s
    assert line.sites[0].later_tokens_per_s == pytest.approx(plan.expected.tokens_per_s)
    gone = after(plan, "lost-site east", fleet=fleet, run=run)
    assert sites(gone.chosen)[head].tokens == 0
    assert "fits no site" in options(gone)["plan everything again"].why
