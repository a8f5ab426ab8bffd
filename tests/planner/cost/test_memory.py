"""Bytes of blocks and stages against the closed numbers of papers, and the laws they obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.planner.cost.convention import AMP, DEEPSPEED, FSDP, ISTHMUS, MEGATRON, Convention
from isthmus.planner.cost.memory import (
    block_bytes,
    chip_params,
    expert_replicas,
    gathered_bytes,
    kept_bytes,
    state_bytes,
)
from isthmus.planner.cost.shapes import DENSE, EMBEDDING, HEAD, MOE, Shapes, shapes_of
from isthmus.planner.layout import Layout, Recompute
from isthmus.planner.models.catalogue import find_model, known_models
from isthmus.planner.models.known import KnownModel
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec
from isthmus.spec.presets import presets

LLAMA = shapes_of(presets["llama-3-8b"])
SKYWORK = shapes_of(presets["skywork-moe-146b"])
PAPER = replace(MEGATRON, flash=False, dropout=True)
"""arXiv 2205.05198 has no flash attention, and dropout."""
GPT_22B, GPT_175B, MTNLG_530B, GPT_1T = (
    (6144, 64, 48),
    (12_288, 96, 96),
    (20_480, 128, 105),
    (25_600, 160, 128),
)


def gpt(hidden: int, heads: int, layers: int) -> Shapes:
    spec = ModelSpec(
        vocab_size=51_200,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=4 * hidden,
    )
    return shapes_of(KnownModel(name="", model=spec, params=0, ffn_matrices=2))


def layer(shapes: Shapes, layout: Layout, convention: Convention = PAPER, kind: int = DENSE) -> float:
    return kept_bytes(shapes, layout, convention, kind).activations


def total_state(shapes: Shapes, layout: Layout, convention: Convention = MEGATRON) -> float:
    """Of all chips of the site."""
    on_one = sum(
        state_bytes(chip_params(shapes, layout, kind), layout, convention).total
        for kind in shapes.kinds.tolist()
    )
    return on_one * layout.tp * layout.cp * layout.dp


@pytest.mark.parametrize("dims", [GPT_22B, GPT_175B, MTNLG_530B, GPT_1T])
def test_a_layer_keeps_what_table_2_of_korthikanti_says(dims: tuple[int, int, int]):
    hidden, heads, _ = dims
    shapes, sbh = gpt(*dims), 2048 * hidden
    scores = 5 * heads * 2048 / hidden
    plain = replace(PAPER, sequence_parallel=False)
    one, eight = Layout(seq_len=2048), Layout(seq_len=2048, tp=8)
    assert layer(shapes, one) == pytest.approx(sbh * (34 + scores))
    assert layer(shapes, eight, plain) == pytest.approx(sbh * (10 + 24 / 8 + scores / 8))
    assert layer(shapes, eight) == pytest.approx(sbh * (34 + scores) / 8)
    assert layer(shapes, replace(eight, recompute="selective")) == pytest.approx(sbh * 34 / 8)
    assert layer(shapes, replace(eight, recompute="full"), plain) == pytest.approx(sbh * 2)


@pytest.mark.parametrize(
    ("dims", "percent"),
    [
        (GPT_22B, (66.84, 49.42, 16.18, 7.64)),
        (GPT_175B, (62.04, 56.53, 18.49, 8.71)),
        (MTNLG_530B, (58.31, 62.04, 20.27, 9.42)),
        (GPT_1T, (58.31, 62.04, 20.27, 9.42)),
    ],
)
def test_techniques_save_what_figure_7_of_korthikanti_shows(
    dims: tuple[int, int, int], percent: tuple[float, ...]
):
    """Sequence parallelism, selective recompute, both, full recompute: percent of tensor parallelism."""
    shapes, layout = gpt(*dims), Layout(seq_len=2048, tp=8)
    plain = replace(PAPER, sequence_parallel=False)
    selective, full = replace(layout, recompute="selective"), replace(layout, recompute="full")
    base = layer(shapes, layout, plain)
    found = (
        layer(shapes, layout),
        layer(shapes, selective, plain),
        layer(shapes, selective),
        layer(shapes, full, plain),
    )
    assert [100 * each / base for each in found] == pytest.approx(percent, rel=0.035)


def test_a_llama_layer_in_bf16_with_flash_attention():
    """Norms 8 h, queries and output 4 h, keys and values 4 kv, feed-forward 6 f: bytes of a token."""
    per_token = 8 * 4096 + 4 * 4096 + 4 * 1024 + 6 * 14_336
    assert layer(LLAMA, Layout(seq_len=8192), MEGATRON) == per_token * 8192


@pytest.mark.parametrize("name", sorted(presets))
def test_parameters_are_those_of_the_model(name: str):
    shapes, layout = shapes_of(presets[name]), Layout()
    counted = sum(sum(chip_params(shapes, layout, kind)) for kind in shapes.kinds.tolist())
    assert counted == count_params(presets[name])


@pytest.mark.parametrize("known", known_models(), ids=lambda known: known.name)
def test_parameters_of_published_models_are_as_their_makers_count(known: KnownModel):
    """Biases, which the catalogue leaves out, are the difference; they are thousandths."""
    shapes, layout = shapes_of(known), Layout()
    counted = sum(sum(chip_params(shapes, layout, kind)) for kind in shapes.kinds.tolist())
    assert counted == pytest.approx(known.num_params, rel=0.005)


def test_experts_are_spread_over_ep_and_etp():
    layout = Layout(tp=4, dp=32, ep=8, etp=2)
    whole = chip_params(SKYWORK, Layout(), MOE)
    cut = chip_params(SKYWORK, layout, MOE)
    assert cut.experts == whole.experts / 16
    assert expert_replicas(layout) == 8
    assert cut.dense < whole.dense / 3.9
    assert chip_params(SKYWORK, Layout(tp=4, ep=8), MOE).experts == whole.experts / 32


def test_a_tied_head_is_a_copy_only_where_it_is_on_another_stage():
    tied = shapes_of(presets["small"])
    assert chip_params(tied, Layout(), HEAD).dense == 512
    assert chip_params(tied, Layout(pp=2), HEAD).dense == 512 + 512 * 16_384
    assert chip_params(tied, Layout(tp=4), EMBEDDING).dense == 512 * 16_384 / 4


@pytest.mark.parametrize("sharding", [1, 2, 3])
def test_zero_shares_add_up_to_one_whole(sharding: int):
    """What a stage of ZeRO shares out is held once by all replicas, the rest by each of them."""
    layout = Layout(dp=8, sharding=sharding)  # pyright: ignore[reportArgumentType]
    params = sum(sum(chip_params(SKYWORK, layout, kind)) for kind in SKYWORK.kinds.tolist())
    shared = {1: 12, 2: 16, 3: 18}[sharding]
    expected = params * (shared + 8 * (18 - shared))
    assert total_state(SKYWORK, layout) == pytest.approx(expected)


def test_experts_optimizer_is_shared_by_the_replicas_of_the_same_experts():
    layout = Layout(dp=32, ep=16)
    params = chip_params(SKYWORK, layout, MOE)
    own = params.experts * (6 + 12 / 2)
    assert state_bytes(params, layout, MEGATRON).total == pytest.approx(params.dense * (6 + 12 / 32) + own)


def test_what_autograd_keeps_gathered_is_held_whole():
    layout, params = Layout(dp=8, sharding=3), chip_params(LLAMA, Layout(), DENSE)
    kept = state_bytes(params, layout, replace(DEEPSPEED, frees_gathered=False))
    freed = state_bytes(params, layout, DEEPSPEED)
    assert kept.weights - freed.weights == 2 * params.dense
    assert gathered_bytes(params, layout, DEEPSPEED) == params.dense * (2 * 2 + 2)
    assert gathered_bytes(params, replace(layout, sharding=1), DEEPSPEED) == 0


def test_casts_and_narrow_formats():
    params = chip_params(LLAMA, Layout(), DENSE)
    fp32, bf16, fp8 = (Layout(sharding=0, precision=each) for each in ("fp32", "bf16", "fp8"))
    assert state_bytes(params, fp32, ISTHMUS).total == 16 * params.dense
    assert state_bytes(params, bf16, ISTHMUS).total == 18 * params.dense
    assert state_bytes(params, bf16, MEGATRON).total == 18 * params.dense
    assert state_bytes(params, fp8, MEGATRON).total == 20 * params.dense
    assert layer(LLAMA, fp8, MEGATRON) < layer(LLAMA, bf16, MEGATRON) < layer(LLAMA, fp32, MEGATRON)


def test_a_loss_in_chunks_holds_no_logits():
    layout = Layout(seq_len=8192, micro_batch=4)
    assert layer(LLAMA, layout, MEGATRON, HEAD) > 16 * 128_256 * 4 * 8192
    assert layer(LLAMA, layout, ISTHMUS, HEAD) < 6 * 128_256 * 4 * 8192


def test_latent_attention_keeps_more_than_its_cache():
    deepseek = find_model("DeepSeek-V3")
    assert deepseek is not None
    heads, tokens = 128, 4096
    core = heads * 2 * (192 + 128)
    plain = replace(deepseek, latent=None)
    difference = layer(shapes_of(deepseek), Layout(seq_len=tokens), MEGATRON) - layer(
        shapes_of(plain), Layout(seq_len=tokens), MEGATRON
    )
    own = core + 2 * (1536 + 512)
    assert difference == pytest.approx(2 * tokens * (own - 4 * heads * plain.model.head_dim))


layouts = st.builds(
    Layout,
    tp=st.sampled_from([1, 2, 4]),
    cp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 4]),
    dp=st.sampled_from([1, 8]),
    ep=st.sampled_from([1, 2]),
    micro_batch=st.integers(1, 4),
    seq_len=st.sampled_from([1024, 4096]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    sharding=st.sampled_from([0, 1, 2, 3]),
    precision=st.sampled_from(["fp32", "bf16", "fp8"]),
)
conventions = st.sampled_from([MEGATRON, DEEPSPEED, FSDP, AMP, ISTHMUS, PAPER])
kinds = st.sampled_from([EMBEDDING, DENSE, MOE, HEAD])


@given(layouts, conventions, kinds)
def test_more_recompute_never_keeps_more(layout: Layout, convention: Convention, kind: int):
    levels: list[Recompute] = ["none", "selective", "full"]
    kept = [layer(SKYWORK, replace(layout, recompute=level), convention, kind) for level in levels]
    assert kept[0] >= kept[1] * (1 - 1e-12)
    assert kept[1] >= kept[2] * (1 - 1e-12)
    one = kept_bytes(SKYWORK, layout, convention, kind)
    assert one.activations >= one.checkpoint * (1 - 1e-12)
    assert one.recomputed >= one.working * (1 - 1e-12)


@given(layouts, conventions)
def test_nothing_is_negative_and_longer_micro_batches_take_more(layout: Layout, convention: Convention):
    one = block_bytes(SKYWORK, layout, convention)
    two = block_bytes(SKYWORK, replace(layout, micro_batch=layout.micro_batch + 1), convention)
    long = block_bytes(SKYWORK, replace(layout, seq_len=2 * layout.seq_len), convention)
    for each in (one.state, one.activations, one.checkpoint):
        assert (each >= 0).all()
    assert (two.activations >= one.activations).all()
    assert (long.activations >= one.activations).all()
    assert (two.state == one.state).all()
    assert two.fixed > one.fixed


@given(layouts, conventions)
def test_more_tensor_parallelism_halves_what_it_cuts(layout: Layout, convention: Convention):
    twice = replace(layout, tp=2 * layout.tp, etp=layout.tp)
    one, two = (block_bytes(SKYWORK, each, convention) for each in (layout, twice))
    assert two.dense_params[EMBEDDING] == one.dense_params[EMBEDDING] / 2
    assert two.dense_params[DENSE] == pytest.approx(one.dense_params[DENSE] / 2, rel=1e-3)
    assert two.expert_params[MOE] == one.expert_params[MOE]
    assert (two.activations <= one.activations).all()
    assert two.activations[DENSE] == pytest.approx(one.activations[DENSE] / 2)


@given(layouts, conventions)
def test_arrays_are_of_the_same_bytes_as_the_functions(layout: Layout, convention: Convention):
    table = block_bytes(SKYWORK, layout, convention)
    for kind in (EMBEDDING, DENSE, MOE, HEAD):
        params = chip_params(SKYWORK, layout, kind)
        assert table.state[kind] == state_bytes(params, layout, convention).total
        kept = layer(SKYWORK, layout, convention, kind)
        kept += gathered_bytes(params, layout, convention) * (kind == HEAD)
        assert table.activations[kind] == pytest.approx(kept * (1 + convention.fragmentation))
        assert (table.dense_params[kind], table.expert_params[kind]) == params
