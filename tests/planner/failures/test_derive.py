"""From plan, fleet and run to a job."""

import pytest
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.failures.assumptions import NODE_MTBF_S, Assumptions
from isthmus.planner.failures.derive import checkpoint_bytes, derive_job
from isthmus.planner.failures.job import LineFaults
from isthmus.planner.layout import Layout
from isthmus.planner.make import make_plan
from isthmus.planner.plan import Expected, PipelinePlan, StagePlan
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import OuterSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Seconds

LINK = LinkSpec(bandwidth=Bandwidth(1e8), delay=Seconds(0.03))
FLEET = FleetSpec(
    sites={
        "jinan": SiteSpec(nodes=[NodeSpec(count=3, chips={"a100": 2})], link=LINK),
        "weihai": SiteSpec(
            nodes=[
                NodeSpec(count=1, chips={"a100": 2}, mtbf=Seconds(1e6)),
                NodeSpec(count=2, chips={"h100": 2}, mtbf=Seconds(4e6)),
            ],
            link=LINK,
        ),
    }
)
RUN = RunSpec(
    model=presets["tiny"], train=TrainSpec(batch_size=12, checkpoint_every=Seconds(900.0)),
    outer=OuterSpec(inner_steps=40),
)  # fmt: skip
STEP_S = {"jinan": 1.0, "weihai": 2.0}
PLAN = make_plan(FLEET, RUN, STEP_S)


def test_a_job_of_two_sites():
    job = derive_job(PLAN, FLEET, RUN, step_s=STEP_S, spares={"weihai": 2})
    jinan, weihai = job.sites
    assert (job.mode, job.inner_steps, job.checkpoint_every_s) == ("elastic", 40, 900.0)
    assert (job.overlap_s, job.reserve_s, job.server_mtbf_s) == (None, 60.0, NODE_MTBF_S)
    assert [(each.nodes, each.spares, each.step_s) for each in job.sites] == [(3, 0, 1.0), (3, 2, 2.0)]
    assert jinan.step_tokens == weihai.step_tokens == 12 * 256
    assert jinan.mtbf_s == NODE_MTBF_S
    assert weihai.mtbf_s == pytest.approx(3 / (1 / 1e6 + 2 / 4e6))
    assert jinan.line == LineFaults(
        transfer_s=PLAN.sites[0].transfer_s, slow_per_day=0, slow_s=1800, slow_factor=10
    )


def test_the_default_mtbf_is_that_of_llama_3():
    """419 unexpected interruptions in 54 days on 16,384 GPUs: one in 3 hours."""
    assert pytest.approx(263.9, abs=0.1) == NODE_MTBF_S / 86_400
    assert pytest.approx(3.1, abs=0.1) == NODE_MTBF_S / 2048 / 3600


def test_a_checkpoint_is_weights_and_moments_in_fp32():
    assert checkpoint_bytes(PLAN, RUN) == 12 * PLAN.num_params
    assume = Assumptions(write=Bandwidth(8e6), copy=Bandwidth(8e7))
    one = derive_job(PLAN, FLEET, RUN, assume=assume, step_s=STEP_S).sites[0]
    assert one.checkpoint_durable_s == one.read_s == pytest.approx(12e-6 * PLAN.num_params)
    assert one.checkpoint_pause_s == pytest.approx(12e-7 * PLAN.num_params)
    spread = replace(assume, replica=4)
    four = derive_job(PLAN, FLEET, RUN, assume=spread, step_s=STEP_S).sites[0]
    assert four.checkpoint_durable_s == pytest.approx(one.checkpoint_durable_s / 4)
    sgd = replace(RUN, train=replace(RUN.train, optimizer="sgd"))
    assert checkpoint_bytes(PLAN, sgd) == 4 * PLAN.num_params


def test_one_site_stops_as_one():
    fleet = FleetSpec(sites={"jinan": FLEET.sites["jinan"]})
    job = derive_job(make_plan(fleet, RUN), fleet, RUN, step_s={"jinan": 1.5})
    assert (job.mode, job.server_mtbf_s) == ("none", 0.0)
    assert job.sites[0].line.transfer_s == 0


def test_strict_waits():
    run = replace(RUN, outer=replace(RUN.outer, mode="strict"))
    plan = make_plan(FLEET, run, STEP_S)
    job = derive_job(plan, FLEET, run, step_s=STEP_S)
    assert job.mode == "strict"
    assert job.overlap_s == plan.delay * 1.0
    assert job.reserve_s == 0
    unmeasured = derive_job(make_plan(FLEET, run), FLEET, run, step_s=STEP_S)
    assert unmeasured.overlap_s == 40.0


def test_nodes_that_the_plan_leaves_unused_are_spares():
    weihai = replace(PLAN.sites[1], chips=["h100", "h100"])
    sites = [replace(site, step_s=3.0) for site in (PLAN.sites[0], weihai)]
    job = derive_job(replace(PLAN, sites=sites), FLEET, RUN, spares={"weihai": 1})
    assert [(each.nodes, each.spares, each.step_s) for each in job.sites] == [(3, 0, 3.0), (1, 3, 3.0)]
    assert job.sites[1].mtbf_s == 4e6


def test_a_pipeline_over_sites_stops_as_one():
    def stage(site: str, first: int) -> StagePlan:
        return StagePlan(site=site, chip="a100", tp=4, first_layer=first, end_layer=first + 2)

    line = PipelinePlan(
        layout=Layout(tp=4, pp=2, seq_len=256), stages=[stage("jinan", 0), stage("weihai", 2)]
    )
    chips = [chip for site in PLAN.sites for chip in site.chips]
    both = replace(PLAN.sites[0], chips=chips, step_s=3.0, pipelines=[line])
    expected = Expected(
        step_s=3,
        low_s=3,
        high_s=3,
        simulated_s=3,
        tokens_per_s=1,
        bound_s=1,
        gap=0,
        parts={"long lines": 0.5},
    )
    apart = derive_job(PLAN, FLEET, RUN, step_s=STEP_S)
    job = derive_job(replace(PLAN, sites=[both], expected=expected), FLEET, RUN)
    assert job.mode == "none"
    assert [each.replica_nodes for each in job.sites] == [4]
    assert job.sites[0].nodes == sum(each.nodes for each in apart.sites)
    assert job.sites[0].nodes / job.sites[0].mtbf_s == pytest.approx(
        sum(each.nodes / each.mtbf_s for each in apart.sites)
    )
    assert job.sites[0].line.transfer_s == 0.5


def test_without_a_step_time_it_says_how_to_get_one():
    with pytest.raises(InputError, match="--step-s") as caught:
        derive_job(make_plan(FLEET, RUN), FLEET, RUN)
    assert "jinan" in caught.value.message


@pytest.mark.parametrize("option", [{"step_s": {"beijing": 1.0}}, {"spares": {"beijing": 1}}])
def test_unknown_sites_are_refused(option):
    with pytest.raises(InputError, match="beijing") as caught:
        derive_job(PLAN, FLEET, RUN, **{"step_s": STEP_S, **option})
    assert caught.value.hint == "the plan has jinan, weihai"


def test_a_plan_of_another_fleet_is_refused():
    other = FleetSpec(sites={"jinan": FLEET.sites["jinan"]})
    with pytest.raises(InputError, match="not in the fleet"):
        derive_job(PLAN, other, RUN, step_s=STEP_S)
    smaller = FleetSpec(sites={**FLEET.sites, "jinan": SiteSpec(nodes=[NodeSpec(chips={"a100": 2})])})
    with pytest.raises(InputError, match="lacks"):
        derive_job(PLAN, smaller, RUN, step_s=STEP_S)
    with pytest.raises(InputError, match="assumed to be 0 s"):
        derive_job(PLAN, FLEET, RUN, step_s=STEP_S, assume=Assumptions(mtbf=Seconds(0.0)))
    with pytest.raises(InputError, match="spares"):
        derive_job(PLAN, FLEET, RUN, step_s=STEP_S, spares={"jinan": -1})
