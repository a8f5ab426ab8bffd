"""Costs of blocks: FLOPs against a closed formula, parameters against the model's own, cuts and scaling."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.chips.find import find_chip
from isthmus.planner.cost.factors import COMPONENTS, Factors
from isthmus.planner.cost.ideal import Setting, ideal_passes
from isthmus.planner.cost.network import Network
from isthmus.planner.cost.shapes import DENSE, HEAD, MOE
from isthmus.planner.cost.table import Table
from isthmus.planner.cost.tabulate import block_kinds, tabulate
from isthmus.planner.layout import Layout
from isthmus.planner.published.flops import token_flops
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec
from isthmus.spec.presets import presets

A100 = find_chip("a100")
NETWORK = Network.of(A100)
GPT_3 = ModelSpec(
    vocab_size=51_200,
    hidden_size=12_288,
    num_layers=96,
    num_heads=96,
    num_kv_heads=96,
    head_dim=128,
    ffn_size=4 * 12_288 * 2 // 3,
    tied_head=False,
)
"""Its two matrices of 4 h are three of 8/3 h here: as many parameters."""


def table(model: ModelSpec, layout: Layout, factors: Factors | None = None) -> Table:
    return tabulate(model, A100, NETWORK, layout, factors or Factors())


def passes(model: ModelSpec, layout: Layout, fused: bool = True):
    setting = Setting.of(model, A100, NETWORK, layout, fused)
    return ideal_passes(model, NETWORK, setting)


def megatron_flops(model: ModelSpec, batch: int, seq_len: int, recompute: bool) -> float:
    """arXiv 2104.04473, eq. 3: 96 B s l h^2 (1 + s / 6h + V / 16 l h) with full recompute."""
    size, layers = model.hidden_size, model.num_layers
    layer = (96 if recompute else 72) * batch * seq_len * layers * size**2
    return layer * (1 + seq_len / (6 * size)) + 6 * batch * seq_len * size * model.vocab_size


@pytest.mark.parametrize("recompute", [False, True])
def test_gpt_3_has_the_flops_of_the_closed_formula(recompute: bool):
    batch, seq_len = 4, 2048
    expected = megatron_flops(GPT_3, batch, seq_len, recompute)
    assert token_flops(GPT_3, seq_len, recompute) * batch * seq_len == pytest.approx(expected, rel=1e-3)


def test_matrix_products_of_the_table_are_those_of_the_formula():
    """Without the attention core, which runs at its own rate."""
    layout = Layout(micro_batch=4, seq_len=2048)
    ideal = passes(GPT_3, layout)[:, :2, COMPONENTS.index("matmul")].sum(axis=1)
    seconds = ideal[DENSE] * GPT_3.num_layers + ideal[HEAD]
    core = 12 * GPT_3.num_layers * 2048 * GPT_3.hidden_size
    expected = (token_flops(GPT_3, 2048) - core) * 4 * 2048
    assert seconds * A100.bf16_tflops * 1e12 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "qwen3-30b-a3b", "skywork-moe-146b"])
def test_parameters_are_the_models(name: str):
    model = presets[name]
    assert table(model, Layout()).params.sum() == pytest.approx(count_params(model))


def test_blocks_are_embedding_layers_and_head():
    kinds = block_kinds(replace(presets["mixtral-8x7b"], num_layers=4, dense_layers=[1]))
    assert kinds.tolist() == [0, MOE, DENSE, MOE, MOE, HEAD]
    assert len(table(GPT_3, Layout()).forward_s) == GPT_3.num_layers + 2


def test_tensor_parallelism_halves_products_and_parameters_and_adds_communication():
    one, two = (passes(GPT_3, Layout(tp=tp, micro_batch=2)) for tp in (1, 2))
    for name in ("matmul", "attention", "elementwise"):
        index = COMPONENTS.index(name)
        assert two[DENSE, 0, index] == pytest.approx(one[DENSE, 0, index] / 2)
    tensor = COMPONENTS.index("tensor")
    assert one[DENSE, 0, tensor] == 0 < two[DENSE, 0, tensor]
    params = [table(GPT_3, Layout(tp=tp)).params[1] for tp in (1, 2)]
    assert params[1] == pytest.approx(params[0] / 2, rel=1e-4)


def test_backward_is_twice_forward_and_full_recompute_repeats_it():
    plain = passes(GPT_3, Layout(recompute="none"))
    full = passes(GPT_3, Layout(recompute="full"))
    matmul = COMPONENTS.index("matmul")
    assert plain[DENSE, 1, matmul] == pytest.approx(2 * plain[DENSE, 0, matmul])
    assert plain[DENSE, 2].sum() == 0
    assert full[DENSE, 2].tolist() == full[DENSE, 0].tolist()
    assert full[HEAD, 2].sum() == 0


def test_attention_that_is_not_fused_writes_its_scores_and_computes_what_is_masked():
    layout = Layout(seq_len=4096)
    fused, plain = passes(GPT_3, layout), passes(GPT_3, layout, fused=False)
    core, scores = COMPONENTS.index("attention"), COMPONENTS.index("scores")
    assert plain[DENSE, 0, core] == pytest.approx(2 * fused[DENSE, 0, core])
    assert fused[DENSE, 0, scores] == 0 < plain[DENSE, 0, scores]


def test_narrow_formats_multiply_faster_and_pay_for_conversion():
    h100 = find_chip("h100")
    network = Network.of(h100)
    wide, narrow = (
        ideal_passes(GPT_3, network, Setting.of(GPT_3, h100, network, Layout(precision=name), True))
        for name in ("bf16", "fp8")
    )
    matmul, cast = COMPONENTS.index("matmul"), COMPONENTS.index("cast")
    assert narrow[DENSE, 0, matmul] == pytest.approx(wide[DENSE, 0, matmul] / 2, rel=1e-3)
    assert wide[DENSE, 0, cast] == 0 < narrow[DENSE, 0, cast]


def test_experts_over_more_chips_exchange_more():
    moe = presets["mixtral-8x7b"]
    expert = COMPONENTS.index("expert")
    costs = [passes(moe, Layout(dp=8, ep=ep))[MOE, 0, expert] for ep in (1, 2, 8)]
    assert costs[0] == 0 < costs[1] < costs[2]


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    micro_batch=st.integers(1, 8),
    seq_len=st.sampled_from([1024, 4096, 16384]),
    name=st.sampled_from(["llama-3-8b", "mixtral-8x7b"]),
)
def test_more_work_takes_longer(tp: int, micro_batch: int, seq_len: int, name: str):
    model = presets[name]
    make = partial(Layout, tp=tp, recompute="full")
    small = table(model, make(micro_batch=micro_batch, seq_len=seq_len))
    large = table(model, make(micro_batch=micro_batch + 1, seq_len=seq_len))
    for field in ("forward_s", "backward_s", "recompute_s"):
        assert np.all(getattr(large, field) >= getattr(small, field))
    assert large.forward_s.sum() > small.forward_s.sum()


@given(st.sampled_from(COMPONENTS), st.floats(1.1, 3.0))
def test_a_factor_scales_its_component_alone(name: str, scale: float):
    layout = Layout(tp=2, ep=4, dp=8, cp=2, precision="bf16")
    plain = table(presets["mixtral-8x7b"], layout)
    more = Factors(**{name: getattr(Factors(), name) * scale})
    scaled = table(presets["mixtral-8x7b"], layout, more)
    for other in COMPONENTS:
        expected = plain.parts[other] * (scale if other == name else 1)
        assert np.allclose(scaled.parts[other], expected)


def test_parts_add_up():
    costs = table(presets["mixtral-8x7b"], Layout(tp=2, dp=4, ep=4))
    assert np.allclose(sum(costs.parts.values()), costs.forward_s + costs.backward_s)


def test_a_chip_without_the_rate_is_refused_by_name():
    with pytest.raises(InputError, match="the fp32 rate of TPU-v4 is not known") as refused:
        tabulate(GPT_3, find_chip("tpu-v4"), NETWORK, Layout(precision="fp32"), Factors())
    assert "fp32_tflops" in (refused.value.hint or "")
