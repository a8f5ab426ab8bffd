"""A quick probe of the micro model by two real ranks, and the arithmetic around it."""

from pathlib import Path

import msgspec
import pytest
import torch

from isthmus import chips
from isthmus.agent.probe import Wanted, run_probe
from isthmus.comm.collective import SoloCollective
from isthmus.errors import InputError, IsthmusError
from isthmus.planner.make import make_plan
from isthmus.planner.probed.predict import predict_peak_bytes, predict_step
from isthmus.planner.probed.profile import Profile, fingerprint
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.run import RunSpec
from isthmus.train.probe.blocks import Bench, RandomRows, probe_run, sizes_up_to, total_s
from isthmus.train.probe.collectives import fit, world_sizes
from isthmus.train.probe.stamps import Piece, by_step
from isthmus.train.probe.timing import spread_of, time_calls, time_work

from .conftest import MOE, SEQ_LEN

CPU = chips.get("cpu")


@pytest.fixture(scope="module")
def probed(spec: RunSpec, dataset) -> tuple[Profile, list[tuple[float, str]]]:
    told: list[tuple[float, str]] = []
    found = run_probe(Wanted(ranks=2, run=spec, quick=True), lambda part, what: told.append((part, what)))
    return found, told


def test_the_profile_is_complete(probed):
    profile, told = probed
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile
    assert (profile.ranks, profile.threads) == (2, 1)
    assert profile.memory_gb_s > 0
    assert {each.precision for each in profile.matmuls} == {"fp32", "bf16"}
    assert all(each.tflops > 0 for each in profile.matmuls)
    assert {(each.kind, each.ranks) for each in profile.collectives} == {("all_reduce", 2), ("broadcast", 2)}
    assert all(each.gb_s > 0 and each.latency_s >= 0 for each in profile.collectives)
    assert 0 < profile.fixed_bytes < profile.memory_bytes
    parts = [part for part, _ in told]
    assert parts == sorted(parts)


def test_every_block_is_timed_at_each_size(probed):
    profile, _ = probed
    kinds = {"embedding", "attention", "dense", "moe", "head"}
    timed = {(b.block, b.tokens) for b in profile.blocks if b.tokens}
    assert timed == {(kind, size * SEQ_LEN) for kind in kinds for size in (1, 2)}
    assert all(b.forward_s > 0 and b.backward_s > 0 for b in profile.blocks if b.tokens)
    assert {b.block for b in profile.blocks if not b.tokens} == {"optimizer", "step", "push"}
    assert all(b.forward_s > 0 for b in profile.blocks)
    assert {b.model for b in profile.blocks} == {fingerprint(MOE)}
    kept = {b.tokens: b.activation_bytes for b in profile.blocks if b.block == "dense"}
    assert kept[2 * SEQ_LEN] == pytest.approx(2 * kept[SEQ_LEN], rel=0.1)
    # Input and output of the norm, and both halves of the SwiGLU: all that a dense part may keep.
    assert kept[SEQ_LEN] <= 4 * SEQ_LEN * (2 * MOE.hidden_size + 3 * MOE.ffn_size + 2)
    params = {b.block: b.params for b in profile.blocks if b.tokens}
    assert sum(params.values()) + params["attention"] == count_params(MOE), "two layers have attention"


def test_it_predicts_the_run(probed, spec: RunSpec):
    profile, _ = probed
    fleet = FleetSpec(sites={"here": SiteSpec(nodes=[NodeSpec(chips={"cpu": 2})])})
    (site,) = make_plan(fleet, spec).sites
    step = predict_step(spec, site, profile)
    assert 0 < step.low_s <= step.step_s <= step.high_s
    assert predict_peak_bytes(spec, site, profile, lead=True, saves=True) > profile.fixed_bytes


def test_a_rank_that_fails_is_heard(spec: RunSpec):
    with pytest.raises(InputError, match="0 ranks"):
        run_probe(Wanted(ranks=0), lambda *_: None)
    with pytest.raises(IsthmusError, match="unknown chip") as raised:
        run_probe(Wanted(chip="tpu9", quick=True), lambda *_: None)
    assert raised.value.exit_code == 2


def test_the_pieces_of_a_step_leave_nothing_out(spec: RunSpec, tmp_path: Path):
    rows = RandomRows(spec.model.vocab_size, SEQ_LEN)
    with Bench(probe_run(spec), rows, SoloCollective(), ("cpu", tmp_path, 0)) as bench:  # pyright: ignore
        steps = bench.steps(3, 2, 2)
        kept = bench.kept(2)
    assert len(steps) == 2
    for *passes, others in steps:
        assert len(passes) == 2
        assert {piece.block for piece in others} == {"step", "exchange", "optimizer"}
        for pieces in passes:
            both = {(kind, way) for kind in ("embedding", "attention", "dense", "moe", "head")
                    for way in ("forward", "backward")}  # fmt: skip
            assert set(pieces) == both
    assert all(total_s(step) > 0 for step in steps)
    assert set(kept) >= {"attention", "dense", "moe", "head"}


def test_steps_are_cut_at_their_ends():
    a, b = Piece("embedding", "forward"), Piece("head", "backward")
    step, end = Piece("step"), Piece("optimizer")
    before = [(a, 9.0), (b, 9.0), (end, 9.0)]
    after = [(step, 1.0), (a, 2.0), (b, 3.0), (a, 4.0), (b, 5.0), (end, 6.0)]
    first, second = by_step([*before, *after])
    assert first == [{a: 9.0, b: 9.0}, {end: 9.0}]
    assert second == [{a: 2.0, b: 3.0}, {a: 4.0, b: 5.0}, {step: 1.0, end: 6.0}]


def test_rates_and_latencies_are_found_again():
    latency_s, gb_s = fit([(size, 1e-4 + size / 2e9) for size in (4096, 65536, 4 << 20)])
    assert latency_s == pytest.approx(1e-4)
    assert gb_s == pytest.approx(2.0)
    latency_s, gb_s = fit([(4096, 3e-4), (65536, 2e-4), (4 << 20, 1e-4)])
    assert 0 <= latency_s <= 1e-4
    assert gb_s > 0


def test_groups_and_sizes():
    assert world_sizes(1) == []
    assert world_sizes(3) == [2, 3]
    assert world_sizes(12) == [2, 3, 4, 8, 12]
    assert sizes_up_to(8, quick=False) == [2, 4, 8]
    assert sizes_up_to(1, quick=False) == [1]


def test_timing():
    seconds, spread = time_work(CPU, lambda: torch.ones(100), 0.01)
    assert 0 < seconds < 1
    assert spread >= 0
    assert len(time_calls(CPU, lambda: None, 2, 7)) == 7
    assert spread_of([1.0, 1.0, 1.0, 50.0]) == 0.0
    assert spread_of([2.0]) == 0.0
