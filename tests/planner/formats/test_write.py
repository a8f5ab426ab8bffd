"""What is written reads back as it was; what another trainer cannot express is refused or told."""

import tomllib
from itertools import pairwise
from typing import Any

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
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec, RopeScaling
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus.units import Count

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
            tp=layout.tp,
            first_layer=chunks[0][0],
            end_layer=chunks[0][0] + sum(end - first for first, end in chunks),
            chunks=chunks if layout.virtual > 1 else [],
            recompute_layers=count,
        )
        for chunks, count in zip(bounds, counts, strict=True)
    ]
    return PipelinePlan(layout=layout, stages=stages)


def run_of(layout: Layout, model: ModelSpec, **train: Any) -> RunSpec:
    batch_size = layout.dp * layout.replica_batch
    data = DataSpec(seq_len=layout.seq_len)
    return RunSpec(model=model, data=data, train=replace(TrainSpec(batch_size=batch_size), **train))


def plan_of(*pipelines: PipelinePlan, run: RunSpec, sites: tuple[str, ...] = ("a",)) -> Plan:
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
        num_params=count_params(run.model),
        active_params=1,
        total_samples=1,
        batch_size=run.train.batch_size,
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
        micro_batches=pp * draw(st.integers(1, 16)) if pp > 1 else draw(st.integers(1, 64)),
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
    text = exported(pipeline_of(layout, bounds), run_of(layout, model), "megatron")
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
    text = exported(pipeline_of(layout, bounds), run_of(layout, model), "torchtitan")
    tomllib.loads(text)
    foreign = read_config(text, layout.num_chips)
    # one replica shards nothing, torchtitan has no sharding of the optimizer alone, and experts need some
    spread = {0: 2} if layout.expert_unit > 1 else {}
    sharding = ({1: 2} | spread).get(layout.sharding, layout.sharding)
    sharding = foreign.layout.sharding if layout.dp == 1 else sharding
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
    layout = Layout(pp=len(sizes), recompute="full", micro_batches=8)
    pipeline = pipeline_of(layout, looped_bounds(sizes, len(sizes)), counts)
    text = exported(pipeline, run_of(layout, model), format)
    foreign = read_config(text, layout.num_chips)
    assert all(got >= need for got, need in zip(foreign.recompute_layers, counts, strict=True))
    assert ("recompute by stage" in text) is (foreign.recompute_layers != counts)


ONE = pipeline_of(Layout(dp=2, micro_batches=2, seq_len=256), [[(0, 4)]])
LLAMA = run_of(ONE.layout, ModelSpec())
TWO = Layout(pp=2, micro_batches=2)
HALVES = [[(0, 2)], [(2, 4)]]
CHUNKS = [[(0, 1), (2, 3)], [(1, 2), (3, 4)]]


def published(name: str) -> ModelSpec:
    known = find_model(name)
    assert known is not None
    return known.model


def exported(pipeline: PipelinePlan, run: RunSpec, format: str = "megatron") -> str:
    return export_plan(plan_of(pipeline, run=run), run, format)


def test_a_plan_for_several_sites_is_exported_one_at_a_time():
    plan = plan_of(ONE, sites=("a", "b"), run=LLAMA)
    with pytest.raises(InputError, match="2 sites") as caught:
        export_plan(plan, LLAMA, "megatron")
    assert "a, b" in (caught.value.hint or "")
    assert "--num-layers 4" in export_plan(plan, LLAMA, "megatron", "b")
    with pytest.raises(NotFoundError, match="'c'"):
        export_plan(plan, LLAMA, "megatron", "c")


@pytest.mark.parametrize(
    ("pipelines", "model", "format", "says"),
    [
        ([ONE, ONE], {}, "megatron", "unlike"),
        ([], {}, "megatron", "how the model lies"),
        ([ONE], {}, "deepspeed", "no format"),
        ([ONE], {}, "torchtitan", "flavor"),
        ([ONE], {"num_experts": 4, "router_bias": True}, "megatron", "sigmoid"),
        ([pipeline_of(Layout(precision="fp4"), [[(0, 4)]])], {}, "torchtitan", "fp4"),
        ([pipeline_of(TWO, [[(0, 4)]])], {}, "megatron", "1 stages"),
        (
            [pipeline_of(replace(TWO, virtual=2), [[(0, 1), (1, 2)], [(2, 3), (3, 4)]])],
            {},
            "megatron",
            "follow each other",
        ),
        ([pipeline_of(Layout(cp=2, seq_len=130), [[(0, 4)]])], {}, "megatron", "divisible by 4"),
        ([pipeline_of(Layout(tp=4, seq_len=132), [[(0, 4)]])], {}, "torchtitan", "divisible by 8"),
        ([pipeline_of(replace(TWO, virtual=2, micro_batches=3), CHUNKS)], {}, "megatron", "whole rounds"),
        ([pipeline_of(replace(TWO, micro_batches=1), HALVES)], {}, "torchtitan", "at least 2"),
        ([pipeline_of(replace(TWO, virtual=2, micro_batches=5), CHUNKS)], {}, "torchtitan", "whole rounds"),
        ([pipeline_of(Layout(dp=2, ep=4), [[(0, 4)]])], {"num_experts": 4}, "megatron", "not divisible"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    pipelines: list[PipelinePlan], model: dict[str, Any], format: str, says: str
):
    run = run_of((pipelines or [ONE])[0].layout, ModelSpec(**model))
    with pytest.raises(InputError, match=says):
        export_plan(plan_of(*pipelines, run=run), run, format)


def test_a_plan_of_another_run_is_refused():
    plan = plan_of(ONE, run=LLAMA)
    for run, says in [
        (replace(LLAMA, model=ModelSpec(num_layers=5)), "parameters"),
        (replace(LLAMA, train=TrainSpec(batch_size=6)), "sequences in a batch"),
        (replace(LLAMA, data=DataSpec(seq_len=512)), "tokens in a sequence"),
    ]:
        with pytest.raises(InputError, match=says):
            export_plan(plan, run, "megatron")


def test_stages_of_unlike_degrees_are_refused():
    layout = Layout(tp=4, pp=2, micro_batches=2)
    line = pipeline_of(layout, HALVES)
    line = replace(line, stages=[line.stages[0], replace(line.stages[1], tp=2)])
    with pytest.raises(InputError, match="degrees 2 and 4"):
        exported(line, run_of(layout, ModelSpec()))


@pytest.mark.parametrize(
    ("format", "batch"),
    [("megatron", "--global-batch-size 12\n"), ("torchtitan", "global_batch_size = 12\n")],
)
def test_a_batch_that_replicas_share_unequally_is_told(format: str, batch: str):
    """10 sequences over 4 replicas of micro-batch 1: the plan gives some 3, some 2."""
    layout = Layout(dp=4, micro_batches=3)
    run = run_of(layout, published("Llama3-8B"), batch_size=10)
    text = exported(pipeline_of(layout, [[(0, 32)]]), run, format)
    assert batch in text
    assert "train.batch_size: 10 (written as 12, 4 replicas of 3 micro-batches of 1)" in text


def test_unlike_chips_are_named_by_rank():
    layout = Layout(tp=2, pp=3, dp=2, micro_batches=3)
    line = pipeline_of(layout, [[(0, 2)], [(2, 3)], [(3, 4)]])
    fast = [replace(stage, chip="y", site="b") for stage in line.stages[1:]]
    text = exported(replace(line, stages=[line.stages[0], *fast]), run_of(layout, ModelSpec()))
    assert "# ranks 0 to 3: x at a\n# ranks 4 to 11: y at b\n" in text


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (Layout(tp=2), "# start with CUDA_DEVICE_MAX_CONNECTIONS=1\n"),
        (Layout(cp=2), "# start with CUDA_DEVICE_MAX_CONNECTIONS=1\n"),
        (Layout(cp=2, dp=2, sharding=3), "# start without CUDA_DEVICE_MAX_CONNECTIONS=1,"),
    ],
)
def test_megatron_insists_on_its_environment(layout: Layout, says: str):
    assert says in exported(pipeline_of(layout, [[(0, 4)]]), run_of(layout, ModelSpec()))


@pytest.mark.parametrize(
    ("train", "options"),
    [
        ({}, ["--lr-decay-style cosine", "--lr-warmup-fraction 0.02", "--adam-beta2 0.95"]),
        (
            {"schedule": "wsd", "decay": 0.1, "tokens": Count(4 * 256 * 1000)},
            ["--lr-decay-style WSD", "--lr-wsd-decay-style linear", "--lr-wsd-decay-iters 100"],
        ),
        ({"schedule": "constant", "warmup": 0.0}, ["--lr-decay-style constant"]),
        ({"optimizer": "sgd"}, ["--optimizer sgd", "--sgd-momentum 0"]),
    ],
)
def test_megatron_gets_optimizer_and_schedule(train: dict[str, Any], options: list[str]):
    run = run_of(ONE.layout, ModelSpec(), **train)
    text = exported(ONE, run)
    assert all(f"  {option}\n" in text for option in options)
    assert ("--lr-warmup-fraction" in text) is (run.train.warmup > 0)
    assert ("--adam-beta1" in text) is (run.train.optimizer == "adamw")


@pytest.mark.parametrize(
    ("balance", "options", "lost"),
    [
        ({}, ["--moe-router-load-balancing-type none"], "train.balance.loss: skywork"),
        ({"loss": "switch"}, ["--moe-router-load-balancing-type aux_loss", "--moe-aux-loss-coeff 0.01"], ""),
        (
            {"loss": "switch", "scope": "global", "adaptive": True},
            ["--moe-router-load-balancing-type global_aux_loss"],
            "train.balance.adaptive",
        ),
        (
            {"loss": "none", "z_loss": 0.001, "capacity": 1.25, "drop": "position"},
            [
                "--moe-z-loss-coeff 0.001",
                "--moe-expert-capacity-factor 1.25",
                "--moe-token-drop-policy position",
            ],
            "",
        ),
        ({"loss": "none", "bias_rate": 0.001}, ["--moe-router-bias-update-rate 0.001"], ""),
    ],
)
def test_megatron_gets_the_balance_of_experts(balance: dict[str, Any], options: list[str], lost: str):
    model = ModelSpec(num_experts=4, router_score="sigmoid", router_bias="bias_rate" in balance)
    text = exported(ONE, run_of(ONE.layout, model, balance=BalanceSpec(**balance)))
    assert all(f"  {option}\n" in text for option in options)
    assert (lost in text) if lost else ("not in these" not in text)


@pytest.mark.parametrize(("schedule", "ratio"), [("cosine", None), ("wsd", 0.2), ("constant", 0.0)])
def test_torchtitan_gets_optimizer_and_schedule(schedule: str, ratio: float | None):
    layout = Layout(dp=2)
    train = {"tokens": Count(2 * 2048 * 1000), "grad_clip": 0.0, "betas": (0.8, 0.9)}
    run = run_of(layout, published("Llama3-8B"), schedule=schedule, **train)
    told = tomllib.loads(exported(pipeline_of(layout, [[(0, 32)]]), run, "torchtitan"))
    scheduler, optimizer = told["lr_scheduler"], told["optimizer"]
    assert (scheduler["warmup_steps"], scheduler.get("decay_ratio")) == (20, ratio)
    assert (optimizer["beta1"], optimizer["beta2"]) == (0.8, 0.9)
    assert told["training"]["max_norm"] > 1e6
    sgd = replace(run, train=replace(run.train, optimizer="sgd"))
    with pytest.raises(InputError, match="sgd"):
        exported(pipeline_of(layout, [[(0, 32)]]), sgd, "torchtitan")


@pytest.mark.parametrize(("ep", "shards"), [(2, 1), (4, 2), (8, 4)])
def test_torchtitan_shards_weights_as_far_as_experts_are_spread(ep: int, shards: int):
    """dp_shard x cp x tp must hold ep x etp chips, also where the plan shards nothing."""
    layout = Layout(dp=4, cp=2, ep=ep, sharding=0)
    text = exported(
        pipeline_of(layout, [[(0, 48)]]), run_of(layout, published("Qwen3-30B-A3B")), "torchtitan"
    )
    table = tomllib.loads(text)["parallelism"]
    assert table["data_parallel_shard_degree"] == shards
    assert table["data_parallel_replicate_degree"] * shards == 4
    assert ("whole on each replica" in text) is (shards > 1)


def test_what_is_lost_is_told():
    scaling = RopeScaling(kind="yarn", factor=4.0)
    model = ModelSpec(gate_norm=1.0, num_experts=4, qk_norm="all", rope_scaling=scaling)
    text = exported(ONE, run_of(ONE.layout, model))
    lost = [line.partition("arguments: ")[2] for line in text.splitlines() if "not in these" in line]
    assert [each.split()[0].rstrip(":") for each in lost] == [
        "model.gate_norm",
        "model.qk_norm",
        "model.rope_scaling",
        "train.balance.loss",
    ]
