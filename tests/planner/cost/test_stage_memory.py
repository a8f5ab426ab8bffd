"""Peaks of pipeline stages: what is in flight, what adds up, and runs that were published."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.planner.cost.convention import GIB, ISTHMUS, MEGATRON
from isthmus.planner.cost.memory import block_bytes
from isthmus.planner.cost.memory_fit import Measured, MemoryFit, fit_memory
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.stage_memory import (
    StageMemory,
    even_bounds,
    pipeline_memory,
    upper_bytes,
)
from isthmus.planner.layout import Layout, Sharding, in_flight
from isthmus.spec.presets import presets

LLAMA = shapes_of(presets["llama-3-8b"])
SKYWORK = shapes_of(presets["skywork-moe-146b"])
MANY = 512


def peaks(layout: Layout, again: tuple[int, ...] = ()) -> list[StageMemory]:
    return pipeline_memory(LLAMA, layout, even_bounds(32, layout.pp), MEGATRON, again)


def test_micro_batches_in_flight():
    assert in_flight("1f1b", 4, 1, MANY).tolist() == [4, 3, 2, 1]
    assert in_flight("1f1b", 4, 1, 2).tolist() == [2, 2, 2, 1]
    assert in_flight("interleaved", 8, 3, MANY)[0] / 8 == pytest.approx(1 + 7 / (8 * 3))
    assert in_flight("interleaved", 1, 8, MANY).tolist() == [1]


def test_the_first_stage_keeps_a_whole_models_activations_whatever_the_depth():
    kept = [peaks(Layout(pp=pp, seq_len=8192, micro_batches=MANY))[0].activations for pp in (1, 2, 4, 8)]
    assert kept == pytest.approx([kept[0]] * 4, rel=1e-3)


def test_stages_hold_all_parameters_and_the_last_one_the_loss():
    layout = Layout(pp=4, seq_len=8192, micro_batches=MANY, sharding=0)
    stages = peaks(layout)
    whole = peaks(replace(layout, pp=1))[0]
    for part in ("weights", "gradients", "optimizer"):
        assert sum(getattr(each, part) for each in stages) == pytest.approx(getattr(whole, part))
    assert stages[3].transient > 16 * 128_256 * 8192
    assert stages[0].transient < stages[3].transient / 10
    assert stages[0].activations > stages[3].activations


def test_recomputing_layers_moves_bytes_from_kept_to_passing():
    layout = Layout(pp=2, seq_len=8192, micro_batches=MANY)
    none, some, every = (peaks(layout, again)[0] for again in ((0, 0), (4, 0), (16, 16)))
    assert none.activations > some.activations > every.activations
    assert every.transient > none.transient
    assert every.total < some.total < none.total
    full = peaks(replace(layout, recompute="full"))[0]
    assert full.activations == pytest.approx(every.activations)
    assert full.transient == pytest.approx(every.transient)


@pytest.mark.parametrize("sharding", [0, 1, 2])
def test_a_table_of_blocks_gives_the_same_peak_but_for_the_loss(sharding: Sharding):
    """The search adds up the arrays of `block_bytes`; the loss and a layer's working set never meet."""
    layout = Layout(tp=4, pp=12, dp=32, ep=4, seq_len=4096, micro_batches=MANY, sharding=sharding)
    table = block_bytes(SKYWORK, layout)
    flying = in_flight("1f1b", 12, 1, layout.micro_batches)
    for stage, (first, end) in enumerate(even_bounds(52, 12)):
        blocks = list(range(first + 1, end + 1))
        blocks = [0] * (stage == 0) + blocks + [53] * (stage == 11)
        kinds = SKYWORK.kinds[blocks]
        added = table.state[kinds].sum() + flying[stage] * table.activations[kinds].sum()
        exact = pipeline_memory(SKYWORK, layout, even_bounds(52, 12))[stage].total
        assert exact <= added + table.fixed
        assert added + table.fixed <= exact * 1.1


def test_a_table_of_sharded_blocks_has_room_for_the_matrix_of_the_loss():
    """Under ZeRO 3 an output layer of 128,256 rows is gathered beside its logits."""
    layout = Layout(dp=16, seq_len=1024, micro_batches=8, sharding=3)
    table = block_bytes(LLAMA, layout)
    added = table.state[LLAMA.kinds].sum() + table.activations[LLAMA.kinds].sum() + table.fixed
    exact = peaks(layout)[0].total
    assert exact <= added <= exact * 1.1


def test_an_eight_billion_model_does_not_fit_eight_chips_without_cutting_it():
    """FlagPerf, llama3_8B-megatron: DP8 ran out of 80 GiB; TP2 PP2 took 51 GiB, TP4 PP2 35."""
    layout = Layout(seq_len=8192, dp=8, micro_batches=64)
    assert peaks(layout)[0].total > 90 * GIB
    cut = replace(layout, tp=2, pp=2, dp=2, micro_batches=256)
    assert max(each.total for each in peaks(cut)) / GIB == pytest.approx(51, rel=0.08)
    narrow = replace(layout, tp=4, pp=2, dp=1, micro_batches=512)
    assert max(each.total for each in peaks(narrow)) / GIB == pytest.approx(35, rel=0.08)


def test_gradients_take_the_room_of_activations_that_go():
    layout = Layout(seq_len=2048, sharding=0, precision="fp32")
    one = pipeline_memory(LLAMA, layout, [(0, 32)], ISTHMUS)[0]
    more = pipeline_memory(LLAMA, replace(layout, micro_batches=2), [(0, 32)], ISTHMUS)[0]
    assert one.gradients == max(0.0, more.gradients - one.activations)
    assert one.activations == more.activations


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 64),
    st.integers(1, 4),
    st.sampled_from([0, 1, 2, 3]),
)
def test_peaks_grow_with_batches_and_layers(pp: int, tp: int, batches: int, micro_batch: int, sharding: int):
    layout = Layout(
        tp=tp, pp=pp, dp=4, micro_batch=micro_batch, micro_batches=batches, seq_len=2048,
        sharding=sharding,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    stages = peaks(layout)
    larger = peaks(replace(layout, micro_batch=micro_batch + 1))
    later = peaks(replace(layout, micro_batches=batches + 1))
    fewer = pipeline_memory(LLAMA, layout, even_bounds(24, pp))
    for stage, more, longer, less in zip(stages, larger, later, fewer, strict=True):
        assert stage.total < more.total
        assert stage.total <= longer.total
        assert less.total < stage.total
        assert min(stage.weights, stage.gradients, stage.optimizer, stage.activations, stage.fixed) > 0


def test_what_most_runs_stay_below():
    stage = peaks(Layout(pp=4))[0]
    assert upper_bytes(stage, replace(MEGATRON, spread=0.0)) == stage.total
    assert upper_bytes(stage, replace(MEGATRON, spread=0.1)) == pytest.approx(stage.total * 1.1367, rel=1e-3)


def test_even_bounds_hold_every_layer_once():
    assert even_bounds(10, 4) == [(0, 3), (3, 6), (6, 8), (8, 10)]
    assert even_bounds(8, 2) == [(0, 4), (4, 8)]


def test_a_fit_finds_what_was_hidden_and_stays_near_nothing_without_runs():
    hidden = MemoryFit(extra_bytes=2.0 * GIB, tensor_bytes=5.0 * GIB, extra_share=0.04)
    runs: list[tuple[Layout, Measured]] = []
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4):
            layout = Layout(tp=tp, pp=pp, seq_len=8192, micro_batches=MANY)
            runs.append((layout, Measured(fullest(layout), fullest(layout, hidden).total, tp > 1)))
    found = fit_memory([run for _, run in runs])
    assert found.tensor_bytes > found.extra_bytes > 0
    for layout, run in runs:
        assert fullest(layout, found).total == pytest.approx(run.used, rel=0.03)
        assert run.peak.total < run.used
    assert fit_memory([]) == MemoryFit()
    twice = runs[0][1]._replace(used=2 * runs[0][1].peak.total)
    assert 0 < fit_memory([twice]).extra_bytes < 10 * GIB


def fullest(layout: Layout, fit: MemoryFit | None = None) -> StageMemory:
    convention = (fit or MemoryFit()).apply(MEGATRON)
    stages = pipeline_memory(LLAMA, layout, even_bounds(32, layout.pp), convention)
    return max(stages, key=lambda each: each.total)
