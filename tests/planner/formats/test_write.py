"""What is written reads back as it was; what another trainer cannot express is refused or told."""

import tomllib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InputError, NotFoundError
from isthmus.planner.formats import export_plan, read_config
from isthmus.planner.formats.flavors import shapes
from isthmus.planner.formats.foreign import Bounds, looped_bounds
from isthmus.planner.layout import Layout
from isthmus.planner.models.catalogue import find_model
from isthmus.planner.plan import PipelinePlan, Plan, SitePlan, StagePlan
from isthmus.spec.model import ModelSpec, RopeScaling
from isthmus.spec.run import RunSpec

FLAVORS = [
    "Llama3-8B",
    "Llama3-405B",
    "Qwen3-0.6B",
    "Qwen3-30B-A3B",
    "DeepSeek-V3",
    "Llama4-Maverick-17B-128E",
]


def pipeline_of(layout: Layout, bounds: Bounds, recompute: list[int] | None = None) -> PipelinePlan:
    counts = recompute or [0] * len(bounds)
    stages = [
        StagePlan(
            site="a",
            chip="x",
            first_layer=chunks[0][0],
            end_layer=chunks[0][0] + sum(end - first for first, end in chunks),
            chunks=chunks if layout.virtual > 1 else [],
            recompute_layers=count,
        )
        for chunks, count in zip(bounds, counts, strict=True)
    ]
    return PipelinePlan(layout=layout, stages=stages)


def plan_of(*pipelines: PipelinePlan, sites: tuple[str, ...] = ("a",)) -> Plan:
    ranks = sum(pipeline.layout.num_chips for pipeline in pipelines)
    parts = [
        SitePlan(
            name=name,
            chips=["x"] * ranks,
            rank_batch=1,
            micro_batch=1,
            share=1.0,
            streams=1,
            bytes_up=0,
            bytes_down=0,
            transfer_s=0.0,
            pipelines=list(pipelines),
        )
        for name in sites
    ]
    return Plan(
        sites=parts,
        num_params=1,
        active_params=1,
        total_samples=1,
        batch_size=1,
        fragments=1,
        codec="int8",
        down_codec="int8",
        mode="elastic",
        inner_steps=1,
        delay=-1,
        quorum=1,
        reasons=[],
        warnings=[],
    )


degrees = st.sampled_from([1, 2, 4])


@st.composite
def layouts(draw: st.DrawFn, has_experts: bool) -> Layout:
    tp, cp, dp, pp = draw(degrees), draw(degrees), draw(degrees), draw(st.integers(1, 5))
    etp = draw(st.sampled_from([1, tp])) if has_experts else tp
    ep = (
        draw(st.sampled_from([n for n in (1, 2, 4, 8) if tp * cp * dp % (n * etp) == 0]))
        if has_experts
        else 1
    )
    return Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        virtual=draw(st.integers(1, 3)) if pp > 1 else 1,
        dp=dp,
        ep=ep,
        etp=0 if etp == tp else etp,
        micro_batch=draw(st.integers(1, 4)),
        micro_batches=draw(st.integers(1, 64)),
        seq_len=draw(st.sampled_from([128, 4096])),
        recompute=draw(st.sampled_from(["none", "selective"])),
        sharding=draw(st.sampled_from([0, 1, 2, 3])),
        precision=draw(st.sampled_from(["fp32", "fp16", "bf16", "fp8", "fp4"])),
    )


@st.composite
def models(draw: st.DrawFn, num_layers: int) -> ModelSpec:
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    sigmoid = draw(st.booleans())
    model = ModelSpec(
        num_layers=num_layers,
        hidden_size=draw(st.sampled_from([64, 4096])),
        num_heads=kv_heads * draw(st.integers(1, 4)),
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([32, 128])),
        ffn_size=draw(st.integers(1, 20_000)),
        vocab_size=draw(st.integers(1, 200_000)),
        tied_head=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.sampled_from(["none", "head"])),
        rope_theta=draw(st.sampled_from([10_000.0, 500_000.0])),
        rope_scaling=draw(st.sampled_from([RopeScaling(), RopeScaling(kind="llama3", factor=8.0)])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
    )
    if not draw(st.booleans()):
        return model
    return replace(
        model,
        num_experts=8 * draw(st.integers(1, 4)),
        top_k=draw(st.integers(1, 4)),
        expert_ffn_size=draw(st.integers(1, 4096)),
        shared_ffn_size=draw(st.sampled_from([0, 512])),
        first_moe_layer=draw(st.integers(0, max(0, num_layers - 1))),
        moe_every=draw(st.integers(1, 3)),
        router_score="sigmoid" if sigmoid else "softmax",
        renormalize=sigmoid or draw(st.booleans()),
        router_bias=sigmoid,
        route_scale=draw(st.sampled_from([1.0, 2.5])),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelSpec, Layout, Bounds]:
    has_experts = draw(st.booleans())
    layout = draw(layouts(has_experts))
    even = draw(st.booleans())
    chunks = layout.pp * layout.virtual
    sizes = [draw(st.integers(1, 5))] * chunks if even else [draw(st.integers(0, 5)) for _ in range(chunks)]
    sizes[0] = max(1, sizes[0])
    model = draw(models(sum(sizes)).filter(lambda model: bool(model.num_experts) is has_experts))
    return model, layout, looped_bounds(sizes, layout.pp)


def plain(model: ModelSpec) -> ModelSpec:
    """Without the many ways to say the same MoE layers."""
    return replace(model, first_moe_layer=0, moe_every=1, dense_layers=[])


@settings(max_examples=150, deadline=None)
@given(cases())
def test_megatron_reads_back_as_written(case: tuple[ModelSpec, Layout, Bounds]):
    model, layout, bounds = case
    text = export_plan(plan_of(pipeline_of(layout, bounds)), RunSpec(model=model), "megatron")
    foreign = read_config(text, layout.num_chips)
    assert foreign.layout == layout
    assert foreign.bounds == bounds
    assert foreign.model.moe_layers == model.moe_layers
    assert plain(foreign.model) == plain(model)
    assert foreign.global_batch == layout.micro_batch * layout.micro_batches * layout.dp
    assert foreign.warnings == []
    assert (foreign.known.ffn_matrices, foreign.known.linear_bias) == (3, False)


@st.composite
def titan_cases(draw: st.DrawFn) -> tuple[ModelSpec, Layout, Bounds]:
    known = find_model(draw(st.sampled_from(FLAVORS)))
    assert known is not None
    layout = replace(
        draw(layouts(has_experts=bool(known.model.num_experts))),
        precision=draw(st.sampled_from(["fp32", "bf16", "fp8"])),
    )
    if layout.ep == 1:
        layout = replace(layout, etp=0)
    chunks = layout.pp * layout.virtual
    cuts = sorted(draw(st.integers(0, known.model.num_layers)) for _ in range(chunks - 1))
    ends = [0, *cuts, known.model.num_layers]
    return (
        known.model,
        layout,
        looped_bounds([b - a for a, b in pairwise(ends)], layout.pp),
    )


@settings(max_examples=100, deadline=None)
@given(titan_cases())
def test_torchtitan_reads_back_as_written(case: tuple[ModelSpec, Layout, Bounds]):
    model, layout, bounds = case
    text = export_plan(plan_of(pipeline_of(layout, bounds)), RunSpec(model=model), "torchtitan")
    tomllib.loads(text)
    foreign = read_config(text, layout.num_chips)
    # one replica shards nothing, and torchtitan has no sharding of the optimizer alone
    sharding = foreign.layout.sharding if layout.dp == 1 else {1: 2}.get(layout.sharding, layout.sharding)
    assert foreign.layout == replace(layout, sharding=sharding)
    assert foreign.bounds == bounds
    assert shapes(foreign.model) == shapes(model)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.data(),
    st.sampled_from(["megatron", "torchtitan"]),
)
def test_no_stage_recomputes_less_than_planned(sizes: list[int], data: st.DataObject, format: str):
    known = find_model("Llama3-8B")
    assert known is not None
    sizes[-1] += 32 - sum(sizes) if sum(sizes) < 32 else 0
    model = known.model if sum(sizes) == 32 else replace(known.model, num_layers=sum(sizes))
    if format == "torchtitan" and sum(sizes) != 32:
        return
    counts = [data.draw(st.integers(0, size)) for size in sizes]
    counts[0] = max(1, counts[0])
    layout = Layout(pp=len(sizes), recompute="full", micro_batches=4)
    plan = plan_of(pipeline_of(layout, looped_bounds(sizes, len(sizes)), counts))
    text = export_plan(plan, RunSpec(model=model), format)
    foreign = read_config(text, layout.num_chips)
    assert all(got >= need for got, need in zip(foreign.recompute_layers, counts, strict=True))
    assert ("recompute by stage" in text) is (foreign.recompute_layers != counts)


LLAMA = RunSpec(model=ModelSpec())
ONE = pipeline_of(Layout(dp=2, micro_batches=2), [[(0, 4)]])


def test_a_plan_for_several_sites_is_exported_one_at_a_time():
    plan = plan_of(ONE, sites=("a", "b"))
    with pytest.raises(InputError, match="2 sites") as caught:
        export_plan(plan, LLAMA, "megatron")
    assert "a, b" in (caught.value.hint or "")
    assert "--num-layers 4" in export_plan(plan, LLAMA, "megatron", "b")
    with pytest.raises(NotFoundError, match="'c'"):
        export_plan(plan, LLAMA, "megatron", "c")


@pytest.mark.parametrize(
    ("plan", "run", "format", "says"),
    [
        (plan_of(ONE, ONE), LLAMA, "megatron", "unlike"),
        (plan_of(), LLAMA, "megatron", "how the model lies"),
        (plan_of(ONE), LLAMA, "deepspeed", "no format"),
        (plan_of(ONE), LLAMA, "torchtitan", "flavor"),
        (plan_of(ONE), RunSpec(model=ModelSpec(num_experts=4, router_bias=True)), "megatron", "sigmoid"),
        (
            plan_of(pipeline_of(Layout(precision="fp4"), [[(0, 4)]])),
            LLAMA,
            "torchtitan",
            "fp4",
        ),
        (plan_of(pipeline_of(Layout(pp=2), [[(0, 4)]])), LLAMA, "megatron", "1 stages"),
        (
            plan_of(pipeline_of(Layout(pp=2, virtual=2), [[(0, 1), (1, 2)], [(2, 3), (3, 4)]])),
            LLAMA,
            "megatron",
            "follow each other",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(plan: Plan, run: RunSpec, format: str, says: str):
    with pytest.raises(InputError, match=says):
        export_plan(plan, run, format)


def test_what_is_lost_is_told():
    model = ModelSpec(
        gate_norm=1.0, num_experts=4, qk_norm="all", rope_scaling=RopeScaling(kind="yarn", factor=4.0)
    )
    text = export_plan(plan_of(ONE), RunSpec(model=model), "megatron")
    lost = [line.partition("arguments: ")[2] for line in text.splitlines() if "not in these" in line]
    assert [each.split()[0].rstrip(":") for each in lost] == [
        "model.gate_norm",
        "model.qk_norm",
        "model.rope_scaling",
    ]
