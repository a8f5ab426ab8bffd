import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InfeasibleError, InputError, NotFoundError
from isthmus.planner.link import derive_delay, derive_streams, payload_bytes, transfer_s
from isthmus.planner.make import MIN_FRAGMENT_PARAMS, make_plan
from isthmus.planner.plan import Plan
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import OuterSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Count, Seconds
from isthmus.wire.codecs import encoded_size

LINK = LinkSpec(bandwidth=Bandwidth(1e8), delay=Seconds(0.03))


def site(chips=1, link=LINK, chip="cpu"):
    return SiteSpec(nodes=[NodeSpec(chips={chip: chips})], link=link)


def fleet(**ranks):
    return FleetSpec(sites={name: site(chips) for name, chips in ranks.items()})


TWO = fleet(jinan=1, shanghai=3)


def run_of(model="tiny-moe", train=None, **outer):
    train = train or TrainSpec(batch_size=12)
    return RunSpec(model=presets[model], train=train, outer=OuterSpec(**outer))


def test_a_plan_of_two_sites():
    plan = make_plan(TWO, run_of())
    assert [each.name for each in plan.sites] == ["jinan", "shanghai"]
    assert [each.num_ranks for each in plan.sites] == [1, 3]
    assert [each.rank_batch for each in plan.sites] == [12, 4]
    assert [each.accumulation for each in plan.sites] == [1, 1]
    assert [each.share for each in plan.sites] == [0.25, 0.75]
    assert plan.num_params == count_params(presets["tiny-moe"])
    assert plan.total_samples == 2_000_000 // 256 // 12 * 12
    assert (plan.quorum, plan.delay, plan.mode) == (1, -1, "elastic")
    assert plan.warnings == []
    assert plan.site("jinan") == plan.sites[0]
    with pytest.raises(NotFoundError):
        plan.site("beijing")


def test_a_plan_is_json_and_the_same_each_time():
    plan = make_plan(TWO, run_of())
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert make_plan(TWO, run_of()) == plan


def test_ranks_are_listed_in_node_order():
    nodes = [NodeSpec(count=2, chips={"h100": 2}), NodeSpec(chips={"a100": 1, "cpu": 1})]
    plan = make_plan(FleetSpec(sites={"mixed": SiteSpec(nodes=nodes)}), run_of())
    assert plan.sites[0].chips == ["h100", "h100", "h100", "h100", "a100", "cpu"]


def test_measured_speed_decides_the_share_and_what_is_hidden():
    plan = make_plan(TWO, run_of(), step_s={"jinan": 0.3, "shanghai": 0.1})
    assert [round(each.share, 3) for each in plan.sites] == [0.25, 0.75]
    assert [each.hidden for each in plan.sites] == [True, True]
    fast = make_plan(TWO, run_of(inner_steps=2), step_s={"jinan": 0.001, "shanghai": 0.1})
    assert [each.hidden for each in fast.sites] == [False, False]
    assert any("raise outer.inner_steps" in warning for warning in fast.warnings)


def test_strict_waits_for_all_and_derives_its_delay():
    plan = make_plan(TWO, run_of(mode="strict"))
    assert (plan.quorum, plan.delay) == (2, -1)
    assert [each.share for each in plan.sites] == [0.5, 0.5]
    measured = make_plan(TWO, run_of(mode="strict"), step_s={"jinan": 0.1, "shanghai": 0.2})
    assert measured.delay == math.ceil(measured.sites[0].transfer_s / 0.1) + 1
    assert make_plan(TWO, run_of(mode="strict", delay=3), step_s={"jinan": 1, "shanghai": 1}).delay == 3


def test_a_budget_below_one_window_is_warned_of():
    plan = make_plan(TWO, run_of(train=TrainSpec(tokens=Count(50_000), batch_size=12)))
    assert any("lower outer.inner_steps" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("model", "least", "most"),
    [("tiny", 1, 4), ("tiny-moe", 2, 8), ("small", 9, 9), ("skywork-moe-146b", 53, 53)],
)
def test_fragments_grow_with_the_model(model, least, most):
    plan = make_plan(TWO, run_of(model))
    assert least <= plan.fragments <= most
    assert plan.fragments == 1 or plan.num_params / plan.fragments >= MIN_FRAGMENT_PARAMS
    assert f"{plan.fragments} fragments" in plan.reasons[0]


@pytest.mark.parametrize(
    ("fleet", "run", "hint"),
    [
        (fleet(a=5), run_of(), "multiple of 5, such as 10"),
        (fleet(a=24), run_of(), "multiple of 24, such as 24"),
        (TWO, run_of(train=TrainSpec(batch_size=12, micro_batch_size=6)), "divisor"),
        (TWO, run_of(quorum=3), "at most 2"),
        (TWO, run_of(fragments=10_000), "use 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(fleet, run, hint):
    with pytest.raises(InfeasibleError) as caught:
        make_plan(fleet, run)
    assert hint in caught.value.hint
    assert caught.value.where


def test_specs_made_in_code_are_checked_too():
    with pytest.raises(InputError, match="no sites"):
        make_plan(FleetSpec(sites={}), run_of())
    with pytest.raises(InputError, match="key-value heads"):
        make_plan(TWO, RunSpec(model=replace(presets["tiny"], num_kv_heads=3)))


def test_int8_and_int4_payloads_beat_the_targets():
    params = count_params(presets["tiny-moe"])
    assert 4 * params / payload_bytes("int8", params, 128) >= 3.9
    assert 4 * params / payload_bytes("int4", params, 128) >= 7.5
    assert payload_bytes("bf16", 3, 128) == 6
    assert payload_bytes("int4", 3, 2) == 2 + 4


@given(st.sampled_from(["fp32", "bf16", "int8", "int4"]), st.integers(1, 10_000), st.integers(1, 128))
def test_payloads_are_what_the_codecs_write(codec, num_values, half_block):
    assert payload_bytes(codec, num_values, 2 * half_block) == encoded_size(codec, num_values, 2 * half_block)


def test_link_arithmetic():
    assert transfer_s(LINK, 10_000_000, 0) == pytest.approx(1.0 + 0.06)
    assert derive_streams(LinkSpec()) == 1
    assert derive_streams(LINK) == 2
    assert derive_streams(LinkSpec(bandwidth=Bandwidth(1e10), delay=Seconds(0.03))) == 11
    assert derive_streams(LinkSpec(bandwidth=Bandwidth(1e12), delay=Seconds(1))) == 16


@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.integers(1, 500))
def test_a_derived_delay_hides_the_transfer_if_that_is_possible(transfer, step, inner_steps):
    delay = derive_delay(transfer, step, inner_steps)
    assert 1 <= delay <= inner_steps
    assert delay == inner_steps or delay * step >= transfer


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 512))
def test_every_plan_uses_all_sequences_of_a_batch(ranks_a, ranks_b, batch_size):
    two = fleet(a=ranks_a, b=ranks_b)
    try:
        plan = make_plan(two, run_of("tiny", TrainSpec(batch_size=batch_size)))
    except InfeasibleError:
        assert batch_size % ranks_a or batch_size % ranks_b
        return
    assert all(each.rank_batch * each.num_ranks == batch_size for each in plan.sites)
    assert sum(each.share for each in plan.sites) == pytest.approx(1)
    assert plan.total_samples % batch_size == 0
