"""Rows become cases: what they state is taken, what they do not is assumed by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.planner.belief.law import step_log
from isthmus.planner.belief.query import FACTORS, design
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.step import exchange_of, scaled, stage_cost, step_time
from isthmus.planner.cost.tabulate import tabulate
from isthmus.planner.layout import Layout
from isthmus.planner.published.case import Case, case_of
from isthmus.planner.published.flops import token_flops
from isthmus.planner.published.frameworks import find_framework
from isthmus.planner.published.hybrid import HYBRIDS, as_transformer, find_hybrid
from isthmus.planner.published.placement import even_stages
from isthmus.planner.published.query import query_of, release_years
from isthmus.planner.published.rows import Row
from isthmus.spec.count import count_active_params, count_params


def row(**given: object) -> Row:
    values = {
        "id": "a", "line": 2, "source": "Megatron-LM", "model": "Llama3-8B", "chip": "h100", "n_chips": 16,
        "seq": 8192, "tp": 2, "pp": 2, "dp": 4, "micro_batch": 1, "global_batch": 64, "precision": "bf16",
        "recompute": "none", "tokens_per_s_per_chip": 5000.0,
    }  # fmt: skip
    return Row(**{**values, **given})  # pyright: ignore[reportArgumentType]


def case(**given: object) -> Case:
    made = case_of(row(**given))
    assert isinstance(made, Case), made
    return made


def test_what_a_row_states_is_taken():
    made = case()
    assert made.layout == Layout(
        tp=2, pp=2, dp=4, etp=1, micro_batch=1, micro_batches=16, seq_len=8192, recompute="none", sharding=1
    )
    assert made.stages == [16, 16]
    assert made.tokens_per_chip == 64 * 8192 / 16
    assert made.step_s == pytest.approx(made.tokens_per_chip / 5000)
    assert made.assumed == ["dimensions of Llama3-8B (" + made.assumed[0].partition("(")[2]]
    assert made.doubt == 0


def test_what_it_does_not_state_is_assumed_by_name():
    made = case(seq=0, micro_batch=0, global_batch=0, recompute="", precision="")
    for word in (
        "sequences of 8192",
        "micro-batch 1",
        "micro-batches",
        "nothing recomputed",
        "precision bf16",
    ):
        assert any(word in each for each in made.assumed), word
    assert made.doubt > 0.1


def test_a_layout_is_assumed_where_there_is_none():
    made = case(tp=0, pp=0, dp=0, model="Llama3-70B", n_chips=64)
    assert made.layout.num_chips <= 64
    assert made.layout.tp == 8
    assert any(each.startswith("tp 8") for each in made.assumed)


def test_a_measured_time_is_taken_from_what_is_there():
    by_rate = case()
    by_time = case(step_time_s=2.0)
    flops = by_rate.reported_flops
    by_flops = case(tokens_per_s_per_chip=0.0, tflops_per_chip=5000 * flops / 1e12)
    by_mfu = case(tokens_per_s_per_chip=0.0, mfu_pct=5000 * flops / (by_rate.chip.bf16_tflops * 1e10))
    assert by_time.step_s == 2.0
    assert by_flops.step_s == pytest.approx(by_rate.step_s)
    assert by_mfu.step_s == pytest.approx(by_rate.step_s)
    assert case(tokens_per_s_per_chip=0.0).step_s == 0


def test_flops_with_recompute_are_a_third_more_where_the_notes_say_so():
    plain = case(recompute="full")
    counted = case(recompute="full", notes="TFLOPS are HARDWARE FLOPs")
    assert 1.25 < counted.reported_flops / plain.reported_flops < 4 / 3


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"model": "Nobody-9000"}, "no dimensions"),
        ({"chip": "h1000"}, "unknown chip 'h1000'"),
        ({"n_chips": 8}, "is more than 8 chips"),
        ({"n_chips": 0, "dp": 0}, "it has no chips"),
        ({"model": "Mixtral-8x7B", "ep": 8, "tp": 1, "pp": 4, "dp": 4}, "ep 8 is more than the 4 chips"),
        ({"layers": 10**9, "hidden": 64}, "more than 10000"),
        ({"chip": "h100x0+a100x0"}, "counts no chips"),
        ({"chip": "h100x8+TPU-v4x8", "precision": "fp32"}, "rate of TPU-v4 is not known"),
        ({"n_chips": 512, "pp": 64}, "64 stages are more than the model's 32 layers"),
        ({"chip": "TPU-v4", "precision": "fp32"}, "rate of TPU-v4 is not known"),
    ],
)
def test_a_row_that_cannot_be_modelled_says_why(given: dict[str, object], why: str):
    said = case_of(row(**given))
    assert isinstance(said, str)
    assert why in said


def test_dimensions_that_contradict_the_parameters_give_way_to_the_known_ones():
    stated = case(params_b=8.03, layers=16, hidden=4096, heads=32, kv_heads=8, ffn=14_336, vocab=128_256)
    assert stated.model.num_layers == 32
    plain = case(layers=16, hidden=4096, heads=32, kv_heads=8, ffn=14_336, vocab=128_256)
    assert plain.model.num_layers == 16


def test_two_matrices_count_as_three_of_two_thirds():
    made = case(model="GPT-X", layers=24, hidden=2304, heads=24, ffn=9216, vocab=51_200)
    assert made.model.ffn_size == 6144
    assert any("2 matrices" in each for each in made.assumed)


def test_the_notes_are_read():
    torchtitan = case(source="torchtitan", pp=2, micro_batch=32, global_batch=0)
    assert (torchtitan.layout.micro_batch, torchtitan.layout.micro_batches) == (1, 32)
    accumulated = case(source="InternEvo", global_batch=0, notes="zero1=2 micro_num=4; network 4x100Gb RoCE")
    assert accumulated.layout.micro_batches == 4
    assert accumulated.shard_group == 2
    assert accumulated.network.nic.gb_s == pytest.approx(400 / 8 / 8)
    assert case(notes="layer split 12/22").stages == [11, 21]
    assert case(notes="FSDP=64").layout.sharding == 3
    assert case(notes="async TP").async_tensor
    assert case(notes="FSDP eager").eager


def test_unlike_chips_take_stages_in_the_order_they_are_named():
    made = case(chip="RTX-3090x8+Titan-RTXx8", hetero="1", precision="fp16")
    assert [chip.name for chip in made.chips] == ["RTX-3090", "Titan-RTX"]
    shared = case(chip="RTX-3090x8+RTX-2080x8", hetero="1", precision="fp16", pp=1, dp=8)
    assert [chip.name for chip in shared.chips] == ["RTX-2080"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("RTX-3090-24", "RTX-3090"), ("A100-40", "A100-40GB"), ("H100 96GB", "H100-80GB"),
        ("A100-80GB/40GB", "A100-80GB"), ("Atlas 800T A2", "Ascend-910B3"), ("GH-96x64", "GH200-96GB"),
    ],
)  # fmt: skip
def test_chips_are_found_in_the_spellings_of_tables(said: str, found: str):
    assert case(chip=said).chip.name == found


def test_a_guessed_chip_is_named():
    assert "'H100 96GB' is H100-80GB" in case(chip="H100 96GB").assumed


@pytest.mark.parametrize("said", ["4xRTX-3090-24 + 12xTitan-RTX-24", "RTX-3090-24x4, Titan-RTX-24x12"])
def test_kinds_are_counted(said: str):
    made = case(chip=said, hetero="1", precision="fp16", pp=4, dp=2)
    assert [chip.name for chip in made.chips] == ["RTX-3090", *["Titan-RTX"] * 3]


@given(st.integers(1, 130), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 6))
def test_stages_hold_every_layer_once(layers: int, pp: int, virtual: int):
    layers = max(layers, 2 * pp)
    stages = even_stages(layers, Layout(pp=pp, virtual=virtual))
    assert sum(stages) == layers
    assert len(stages) == pp
    assert max(stages) - min(stages) <= 2


def test_systems_are_found_by_their_source():
    assert find_framework("NVIDIA-NeMo/Megatron-Bridge 26.04.01 Container").release == "26.04.01"
    assert find_framework("FlagPerf", "training/llama2_7b-deepspeed").name == "deepspeed"
    assert find_framework("FlagPerf", "training/llama3_8B-megatron").name == "flagscale"
    assert find_framework("MegaScale table 2", "", "Megatron-LM baseline").name == "megatron-lm"
    assert find_framework("Somebody else").family == "other"
    assert not find_framework("Korthikanti 2205.05198").fused_attention
    assert release_years("26.08") - release_years("26.04") == pytest.approx(1 / 3)
    assert release_years("") == 0


@pytest.mark.parametrize(
    ("name", "total", "active"), [("nemotron3nano", 31.6, 3.6), ("nemotron3super", 120, 12.7)]
)
def test_hybrids_have_the_parameters_of_their_names(name: str, total: float, active: float):
    model, core = as_transformer(HYBRIDS[name], 8192)
    assert count_params(model) / 1e9 == pytest.approx(total, rel=0.1)
    assert count_active_params(model) / 1e9 == pytest.approx(active, rel=0.1)
    assert 0 < core < 1


def test_hybrids_are_found_by_any_spelling():
    nano = HYBRIDS["nemotron3nano"]
    for name in ("Nemotron_3_Nano", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Nemotron_3_5_Lightning"):
        assert find_hybrid(name) == nano
    assert find_hybrid("Llama3-8B") is None
    assert case(model="Nemotron_3_Nano").recipe == "bf16 hybrid"


@pytest.mark.parametrize("sharding", ["", "FSDP=8"])
@pytest.mark.parametrize("pp", [1, 4])
def test_the_law_of_a_case_is_the_step_that_the_search_adds_up(pp: int, sharding: str):
    """Features times factors, and the table's stages put together, are the same seconds."""
    made = case(pp=pp, dp=8 // pp, notes=sharding, recompute="full")
    factors = Factors()
    theta = np.log([getattr(factors, name) for name in FACTORS])
    by_law = float(np.exp(step_log(theta, design([query_of(made)]))[0][0]))
    layout = made.layout
    table = tabulate(made.model, made.chip, made.network, layout, factors)
    exchange = scaled(exchange_of(made.chip, made.network, layout, made.shard_group), factors)
    size = made.model.num_layers // pp
    bounds = [
        (1 + stage * size - (stage == 0), 1 + (stage + 1) * size + (stage == pp - 1)) for stage in range(pp)
    ]
    costs = [stage_cost(table, range(*each), size, layout, exchange) for each in bounds]
    added = step_time(costs, layout, made.nodes, factors).total_s
    assert by_law == pytest.approx(added, rel=0.01)


def test_flops_of_a_token_are_halved_in_attention_where_causality_counts():
    made = case()
    full, causal = token_flops(made.model, 8192), token_flops(made.model, 8192, causal=True)
    assert full - causal == pytest.approx(6 * 32 * 8192 * 4096)


def test_chips_that_a_name_counts_are_several_kinds_whatever_the_row_says_of_them():
    made = case(chip="Titan-RTX-24x8 + RTX-2080x8", hetero="0", precision="fp16")
    assert [chip.name for chip in made.chips] == ["Titan-RTX", "RTX-2080"]
    assert [chip.name for chip in case(chip="h100/a100").chips] == ["H100-80GB"] * 2


def test_the_slowest_of_a_stages_chips_is_that_of_its_precision():
    """An RTX 3090 is faster than a Titan RTX in fp32 and slower in 16 bits."""
    shared = {"chip": "RTX-3090x8+Titan-RTXx8", "pp": 1, "dp": 8}
    assert case(**shared, precision="fp16").chip.name == "RTX-3090"
    assert case(**shared, precision="fp32").chip.name == "Titan-RTX"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("amp_fp16/fp32", "fp16"), ("bf16+fp8", "fp8"), ("TF32", "fp32"), ("nvfp4", "fp4"), ("half", "bf16")],
)
def test_products_are_in_the_narrowest_format_that_is_named(said: str, meant: str):
    assert case(precision=said).layout.precision == meant


def test_a_format_that_a_chip_lacks_is_named():
    assert "a wider format than fp8 on A100-80GB" in case(chip="a100", precision="fp8").assumed
    assert not any("wider" in each for each in case(precision="fp8").assumed)


def test_a_layout_that_is_assumed_leaves_no_chip_without_a_part():
    made = case(tp=0, pp=0, dp=0, model="Llama3-70B", n_chips=24, chip="a100")
    assert (made.layout.tp, made.layout.num_chips) == (8, 24)
    sharded = case(tp=0, pp=0, dp=0, model="Llama3-70B", n_chips=64, source="fms-fsdp")
    assert (sharded.layout.tp, sharded.layout.pp, sharded.layout.dp) == (1, 1, 64)


def test_chunks_need_a_pipeline():
    assert case(vpp=4, pp=1, dp=8).layout.virtual == 1
    assert case(vpp=4).layout.virtual == 4


def test_strange_notes_change_nothing():
    for said in ("grad_accum=0", "GBS=0 LBS=0 MPE=0", "layer split //", "GBS=" + "9" * 400, "0 Gb/s RoCE"):
        assert case(notes=said).layout == case().layout
        assert case(notes=said).network == case().network
