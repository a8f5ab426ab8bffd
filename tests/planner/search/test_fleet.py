import msgspec
import pytest
from msgspec.structs import replace

from isthmus.errors import InfeasibleError, InputError
from isthmus.planner.plan import Plan
from isthmus.planner.runnable import check_runnable
from isthmus.planner.search.answer import best_plan
from isthmus.planner.search.chain import search_chain
from isthmus.planner.search.fleet import survey
from isthmus.spec.fleet import ChipSpec, TrunkSpec
from isthmus.spec.presets import presets
from isthmus.units import Bandwidth, Bytes

from .conftest import MODEL, site


def check_whole(plan, num_layers):
    """Every pipeline holds each layer once and in order, and fits."""
    for each in plan.sites:
        for pipeline in each.pipelines:
            order = [
                chunk
                for turn in range(pipeline.layout.virtual)
                for stage in pipeline.stages
                for chunk in [(stage.chunks or [(stage.first_layer, stage.end_layer)])[turn]]
            ]
            assert [first for first, _ in order] == [0, *(end for _, end in order)][:-1]
            assert order[-1][1] == num_layers
            assert pipeline.stages[0].embedding
            assert pipeline.stages[-1].head
            assert all(stage.memory_bytes <= stage.memory_limit for stage in pipeline.stages)


def test_one_site(make_fleet, make_run):
    plan = best_plan(make_fleet(west=site(a100=2)), make_run())
    check_whole(plan, MODEL.num_layers)
    expected = plan.expected
    assert sum(expected.parts.values()) == pytest.approx(expected.step_s)
    assert expected.low_s < expected.step_s < expected.high_s
    assert expected.bound_s <= expected.step_s
    assert expected.tokens_per_s == pytest.approx(64 * 4096 / expected.step_s)
    assert [each for each in plan.considered if each.chosen]
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_same_fleet_gives_the_same_plan(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=2, h100=1), east=site(h100=1))
    assert best_plan(fleet, make_run()) == best_plan(fleet, make_run())


def test_unlike_pools_share_the_batch(make_fleet, make_run):
    run = make_run(batch=256)
    mixed = best_plan(make_fleet(west=site(a100=2, h100=2)), run)
    check_whole(mixed, MODEL.num_layers)
    alone = best_plan(make_fleet(west=site(h100=2)), run)
    assert mixed.expected.tokens_per_s > alone.expected.tokens_per_s
    assert {stage.chip for each in mixed.sites[0].pipelines for stage in each.stages} == {"a100", "h100"}


def test_sites_train_beside_each_other(make_fleet, make_run):
    plan = best_plan(make_fleet(west=site(a100=2), east=site(h100=2)), make_run())
    rates = {each.name: 1 / each.step_s for each in plan.sites}
    assert set(rates) == {"west", "east"}
    assert plan.expected.tokens_per_s == pytest.approx(64 * 4096 * sum(rates.values()))
    assert plan.site("east").share > plan.site("west").share


def test_a_model_too_large_for_each_site_gets_a_pipeline_over_both(make_fleet, make_run):
    run = make_run(model=replace(presets["llama-3-70b"], num_layers=24), batch=128)
    small = {"west": site(a100=1, bandwidth=400e9), "east": site(a100=1, bandwidth=400e9)}
    chip = {"a100": ChipSpec(like="a100", memory=Bytes(40 * 2**30))}
    plan = best_plan(replace(make_fleet(**small), chips=chip), run)
    check_whole(plan, 24)
    assert len(plan.sites) == 1
    assert {stage.site for each in plan.sites[0].pipelines for stage in each.stages} == {"west", "east"}
    with pytest.raises(InfeasibleError, match="a pipeline over sites"):
        check_runnable(plan)
    slow = {name: site(a100=1, bandwidth=1e9) for name in small}
    slower = best_plan(replace(make_fleet(**slow), chips=chip), run)
    assert slower.expected.step_s > plan.expected.step_s


def test_a_site_behind_a_hopeless_link_is_left_out(make_fleet, make_run):
    plan = best_plan(make_fleet(west=site(a100=2), east=site(h100=2, bandwidth=1e5)), make_run())
    assert [each.name for each in plan.sites] == ["west"]
    assert any("east left out" in reason for reason in plan.reasons)


def test_a_shared_trunk_asks_for_more_inner_steps(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=2), east=site(a100=2))
    free = best_plan(fleet, make_run())
    trunk = TrunkSpec(sites=["west", "east"], bandwidth=Bandwidth(5e8))
    shared = best_plan(replace(fleet, trunks={"sea": trunk}), make_run())
    assert shared.inner_steps > free.inner_steps
    assert all(each.hidden for each in shared.sites)


def test_a_model_that_fits_nowhere_names_what_would_help(make_fleet, make_run):
    run = make_run(model=presets["llama-3-70b"], seq_len=8192)
    with pytest.raises(InfeasibleError) as caught:
        best_plan(make_fleet(west=site(a100=1)), run)
    hint = caught.value.hint
    assert "more memory on each a100" in hint
    assert "layers instead of 80" in hint
    times = int(hint.split(" times the nodes")[0].split()[-1])
    helped = best_plan(make_fleet(west=site(a100=times)), run)
    check_whole(helped, 80)
    with pytest.raises(InfeasibleError):
        best_plan(make_fleet(west=site(a100=times // 2)), run)


def test_an_unknown_chip_is_named(make_fleet, make_run):
    with pytest.raises(InputError) as caught:
        best_plan(make_fleet(west=site(h10=1)), make_run())
    assert "h100" in f"{caught.value} {caught.value.hint}".lower()


def test_what_train_runs_today(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=1), east=site(a100=1))
    plan = best_plan(fleet, make_run(batch=64), runnable=True)
    check_runnable(plan)
    assert [each.num_ranks for each in plan.sites] == [8, 8]
    assert all(each.rank_batch == 8 for each in plan.sites)
    best = best_plan(make_fleet(west=site(a100=4)), make_run(batch=16))
    with pytest.raises(InfeasibleError, match="train cannot run"):
        check_runnable(best)


def test_fixed_degrees_are_kept(make_fleet, make_run):
    run = make_run()
    fixed = replace(run, parallel=replace(run.parallel, tp=2, pp=3, recompute="full"))
    plan = best_plan(make_fleet(west=site(a100=3)), fixed)
    check_whole(plan, MODEL.num_layers)
    for pipeline in plan.sites[0].pipelines:
        assert (pipeline.layout.tp, pipeline.layout.pp) == (2, 3)
        assert all(stage.recompute_layers == stage.held_layers for stage in pipeline.stages)


def test_stages_of_unlike_libraries_send_slower(make_fleet, make_run):
    run = make_run(batch=64)
    fixed = replace(run, parallel=replace(run.parallel, tp=8, pp=4, virtual=1))
    own = {"x": ChipSpec(like="a100", collectives="nccl"), "y": ChipSpec(like="a100", collectives="hccl")}
    alike = replace(own["y"], collectives="nccl")
    fleet = make_fleet(west=site(x=2, y=2))
    job = [survey(replace(fleet, chips=chips), fixed) for chips in (own, own | {"y": alike})]
    unlike, same = (search_chain(each.job, each.pools["west"], 64).best for each in job)
    assert unlike.step_s > same.step_s
