"""Arithmetic on a made-up profile: the expected values are worked out by hand."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import NotFoundError
from isthmus.planner.make import make_plan
from isthmus.planner.plan import SitePlan
from isthmus.planner.probed.buckets import BUCKET_BYTES, Overlap, contention, overlap
from isthmus.planner.probed.extract import FEW_PARAMS, FEWEST_LAYERS, extract, layers_of
from isthmus.planner.probed.joined import predict_joined
from isthmus.planner.probed.predict import interpolate, predict_peak_bytes, predict_step
from isthmus.planner.probed.profile import (
    BlockTime,
    CollectiveRate,
    ExchangeTime,
    Profile,
    Workspace,
    fingerprint,
)
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, OuterSpec, RunSpec, TrainSpec
from isthmus.units import Bandwidth, Seconds

SEQ_LEN = 128
MODEL = ModelSpec(num_layers=5, num_experts=4, first_moe_layer=2)
RATE = CollectiveRate(kind="all_reduce", ranks=2, latency_s=1e-3, gb_s=1.0)


def block(name: str, tokens: int, ms: float, model: ModelSpec = MODEL, **more: object) -> BlockTime:
    values = {
        "forward_s": ms / 1e3, "backward_s": 2 * ms / 1e3, "accumulate_s": 1e-4, "precision": "fp32",
        "activation_bytes": 10 * tokens, "spread": 0.05, "seq_len": SEQ_LEN,
    }  # fmt: skip
    return BlockTime(block=name, model=fingerprint(model), tokens=tokens, **{**values, **more})  # pyright: ignore


def profile(model: ModelSpec = MODEL, **changes: object) -> Profile:
    blocks = [
        block(name, tokens, ms * tokens / SEQ_LEN, model)
        for tokens in (SEQ_LEN, 2 * SEQ_LEN, 4 * SEQ_LEN)
        for name, ms in (("embedding", 0.5), ("attention", 4), ("dense", 5), ("moe", 9), ("head", 3))
    ]
    for name, ms in (("optimizer", 12), ("step", 1), ("push", 10)):
        blocks.append(block(name, 0, ms, model, params=count_params(model) // 2, backward_s=0.02))
    made = Profile(
        chip="cpu", device="made up", threads=1, memory_bytes=2**33, memory_gb_s=10.0, blocks=blocks,
        collectives=[RATE], fixed_bytes=10**8,
        workspaces=[Workspace(model=fingerprint(model), tokens=SEQ_LEN, num_bytes=10**6)],
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def job(
    model: ModelSpec = MODEL, batch: int = 8, micro_batch: int = 2, ranks: int = 1
) -> tuple[RunSpec, SitePlan]:
    run = RunSpec(
        model=model,
        data=DataSpec(seq_len=SEQ_LEN),
        train=TrainSpec(batch_size=batch, micro_batch_size=micro_batch),
    )
    fleet = FleetSpec(sites={"here": SiteSpec(nodes=[NodeSpec(chips={"cpu": ranks})])})
    return run, make_plan(fleet, run).site("here")


def test_a_step_is_the_sum_of_its_blocks():
    run, site = job()
    found = predict_step(run, site, profile())
    # Twice the first size. A micro-batch: 3 x 2 x (0.5 + 5 x 4 + 2 x 5 + 3 x 9 + 3) ms; 12 blocks accumulate.
    passes = 4 * 3 * 2 * 60.5e-3 + 3 * 12 * 1e-4
    assert found.step_s == pytest.approx(passes + 2 * 12e-3 + 1e-3)
    assert found.parts["moe"] == pytest.approx(4 * 3 * 2 * 27e-3 + 3 * 3 * 1e-4)
    assert found.parts["exchange"] == 0
    assert sum(found.parts.values()) == pytest.approx(found.step_s)
    share = (passes + 2 * 12e-3) / found.step_s
    assert found.high_s / found.step_s == pytest.approx(math.exp(1.645 * 0.05 * share))
    assert found.low_s * found.high_s == pytest.approx(found.step_s**2)


@given(st.integers(1, 8), st.integers(1, 8))
def test_more_micro_batches_and_larger_ones_take_longer(count: int, size: int):
    def step_s(batch: int, micro_batch: int) -> float:
        return predict_step(*job(batch=batch, micro_batch=micro_batch), profile()).step_s

    now_s = step_s(count * size, size)
    assert step_s((count + 1) * size, size) > now_s
    assert step_s(count * (size + 1), size + 1) > now_s


@given(
    st.dictionaries(st.integers(1, 10_000), st.floats(1e-6, 1e3), min_size=1, max_size=5),
    st.integers(1, 20_000),
    st.integers(0, 10_000),
)
def test_interpolation_never_falls(points: dict[int, float], tokens: int, more: int):
    pairs = list(points.items())
    low, high = interpolate(pairs, tokens), interpolate(pairs, tokens + more)
    assert 0 < low <= high * (1 + 1e-9)


def test_interpolation_by_hand():
    points = [(200, 3.0), (100, 2.0), (400, 2.5)]
    assert interpolate(points, 100) == 2.0
    assert interpolate(points, 150) == 2.5
    assert interpolate(points, 300) == 3.0, "noise alone makes a larger size faster"
    assert interpolate(points[:2], 400) == pytest.approx(5.0), "on along the last line"
    assert interpolate(points[:2], 50) == pytest.approx(1.5), "back along the first"
    assert interpolate([(100, 2.0)], 50) == 1.0
    assert interpolate([(100, 2.0)], 300) == 6.0


def test_precision_and_sequence_length_must_be_the_run_s():
    run, site = job()
    other = msgspec.structs.replace(run, data=DataSpec(seq_len=64))
    with pytest.raises(NotFoundError, match="no 'embedding' of this model with sequences of 64"):
        predict_step(other, site, profile())
    bf16 = msgspec.structs.replace(run, train=msgspec.structs.replace(run.train, precision="bf16"))
    with pytest.raises(NotFoundError, match="bf16"):
        predict_step(bf16, site, profile())
    with pytest.raises(NotFoundError, match="isthmus probe"):
        predict_step(msgspec.structs.replace(run, model=ModelSpec(hidden_size=64)), site, profile())


def test_fingerprints_tell_shapes_and_not_depth():
    deeper = msgspec.structs.replace(MODEL, num_layers=50, moe_every=2)
    assert fingerprint(deeper) == fingerprint(MODEL)
    assert fingerprint(msgspec.structs.replace(MODEL, ffn_size=100)) != fingerprint(MODEL)
    run, site = job(deeper)
    assert predict_step(run, site, profile()).step_s > 5 * predict_step(*job(), profile()).step_s


def test_an_exchange_overlaps_backward():
    times = {"head": 0.01, "dense": 0.02, "attention": 0.02, "embedding": 0.005}
    model = ModelSpec(num_layers=2, vocab_size=65_536, hidden_size=128, tied_head=False)
    free = CollectiveRate(kind="all_reduce", ranks=2, latency_s=0.0, gb_s=1e9)
    assert overlap(model, times, free) == pytest.approx(Overlap(0.0, 0.0), abs=1e-6)
    # 33.5 MB of the head go from 10 ms on, for 33.5 ms; the embedding's, when backward ends, for 33.5 more.
    # Between them the layers' 1.4 MB, in one bucket with the embedding.
    found = overlap(model, times, msgspec.structs.replace(free, gb_s=1.0))
    head_s, rest_s = 65_536 * 128 * 4e-9, (count_params(model) - 65_536 * 128) * 4e-9
    assert found.beside_s + found.after_s == pytest.approx(head_s + rest_s)
    assert found.after_s == pytest.approx(rest_s)
    tied = overlap(
        msgspec.structs.replace(model, tied_head=True), times, msgspec.structs.replace(free, gb_s=1.0)
    )
    assert tied == pytest.approx(Overlap(0.0, rest_s), abs=1e-9), "its gradient is whole at the very end"


@given(st.floats(0.1, 3.0))
def test_contention_is_what_explains_the_exchange(factor: float):
    alone = Overlap(0.2, 0.05)
    assert contention(alone.added_s(factor), alone) == pytest.approx(factor)
    assert contention(0.01, alone) == 0.0


def test_an_exchange_is_taken_from_the_probed_model_to_the_whole():
    model = ModelSpec(num_layers=12, hidden_size=512, head_dim=128, ffn_size=1408, tied_head=False)
    run, site = job(model, batch=4, micro_batch=2, ranks=2)
    part = layers_of(model, 2, 0)
    times = {"head": 0.012, "dense": 0.02, "attention": 0.016, "embedding": 0.002}
    times = {name: seconds + 1e-4 for name, seconds in times.items()}
    added_s = overlap(part, times, RATE).added_s(0.4)
    taken = ExchangeTime(
        model=fingerprint(model), ranks=2, num_layers=2, moe_layers=0, tokens=2 * SEQ_LEN, added_s=added_s
    )
    once = {name: seconds - 1e-4 for name, seconds in times.items()}
    found = predict_step(run, site, profile(model, exchanges=[taken])).parts["exchange"]
    assert found == pytest.approx(overlap(model, once, RATE).added_s(0.4))
    unknown = predict_step(run, site, profile(model)).parts["exchange"]
    assert unknown > found, "where it was not measured, nothing is hidden"
    with pytest.raises(NotFoundError, match="--ranks 2"):
        predict_step(run, site, profile(model, collectives=[]))


def test_peak_memory_adds_up():
    run, site = job()
    params = 4 * count_params(MODEL)
    kept, workspace = 12 * 10 * 2 * SEQ_LEN, 2 * 10**6

    def peak(site: SitePlan, lead: bool = False, saves: bool = False, threads: int = 1) -> int:
        return predict_peak_bytes(run, site, profile(threads=threads), lead=lead, saves=saves)

    assert peak(site) == 10**8 + 4 * params + kept + workspace
    assert peak(site, lead=True) == peak(site) + 3 * params
    assert peak(site, saves=True) == 10**8 + 6 * params, "more than the step, whose memory it takes"
    assert peak(site, lead=True, saves=True, threads=0) == peak(site), "that is on the host"
    whole = msgspec.structs.replace(site, micro_batch=8)
    assert peak(whole) == 10**8 + 3 * params + max(params, 4 * kept) + 8 * 10**6
    _, two = job(batch=8, micro_batch=2, ranks=2)
    assert peak(two) == peak(site) + params


@pytest.mark.parametrize("name", sorted(presets))
def test_the_part_that_is_probed_has_all_kinds_of_blocks(name: str):
    model = presets[name]
    part = extract(model)
    assert fingerprint(part) == fingerprint(model)
    assert bool(part.moe_layers) == bool(model.moe_layers)
    kinds = (len(part.moe_layers), part.num_layers - len(part.moe_layers))
    if count_params(part) > FEW_PARAMS:
        assert max(kinds) <= FEWEST_LAYERS
    if count_params(model) <= FEW_PARAMS and model.num_layers <= 8:
        assert count_params(part) == count_params(model)


def two_sites(mode: str, mbps: float, inner_steps: int = 10) -> tuple[FleetSpec, RunSpec]:
    link = LinkSpec(bandwidth=Bandwidth(mbps * 1e6), delay=Seconds(0.0))
    run, _ = job()
    outer = OuterSpec(mode=mode, inner_steps=inner_steps, delay=0 if mode == "strict" else -1)  # pyright: ignore
    return FleetSpec(sites={"a": SiteSpec(link=link), "b": SiteSpec(link=link)}), msgspec.structs.replace(
        run, outer=outer
    )


def slower(factor: float) -> Profile:
    made = profile()
    blocks = [
        msgspec.structs.replace(b, forward_s=factor * b.forward_s, backward_s=factor * b.backward_s,
                                accumulate_s=factor * b.accumulate_s)
        for b in made.blocks
    ]  # fmt: skip
    return msgspec.structs.replace(made, blocks=blocks)


def test_elastic_sites_add_up_and_pay_for_their_pushes():
    fleet, run = two_sites("elastic", 1e6)
    found = predict_joined(fleet, run, {"a": profile(), "b": slower(2.0)})
    step_s = found.steps["a"].step_s
    assert found.steps["b"].step_s == pytest.approx(2 * step_s)
    push_s = 2 * (10e-3 + 20e-3)
    assert found.push_s == pytest.approx({"a": push_s, "b": 2 * push_s})
    tokens = 8 * SEQ_LEN
    expected = 10 * tokens / (10 * step_s + push_s) + 5 * tokens / (10 * step_s + 2 * push_s)
    assert found.tokens_per_s == pytest.approx(expected)
    assert found.waits_s == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-9)
    assert found.plan.site("a").share == pytest.approx(2 / 3)
    assert found.plan.site("a").hidden


def test_a_slow_link_costs_elastic_sites_pushes_and_strict_ones_time():
    for mode in ("elastic", "strict"):
        fast, slow = (
            predict_joined(*two_sites(mode, mbps), {"a": profile(), "b": profile()}) for mbps in (1e6, 1.0)
        )
        if mode == "elastic":
            assert slow.tokens_per_s >= fast.tokens_per_s, "fewer pushes, each with its cost"
        else:
            site = slow.plan.site("a")
            window_s = 10 * slow.steps["a"].step_s + slow.push_s["a"] + site.transfer_s
            assert slow.tokens_per_s == pytest.approx(2 * 10 * 8 * SEQ_LEN / window_s)
            assert slow.waits_s["a"] == pytest.approx(site.transfer_s)


def test_strict_sites_wait_for_the_slowest():
    fleet, run = two_sites("strict", 1e6)
    found = predict_joined(fleet, run, {"a": profile(), "b": slower(2.0)})
    assert found.waits_s["b"] == pytest.approx(found.plan.site("b").transfer_s)
    assert found.waits_s["a"] > 9 * found.steps["a"].step_s


def test_buckets_are_those_of_training():
    pytest.importorskip("torch")
    from isthmus.parallel import data_parallel

    assert data_parallel.BUCKET_BYTES == BUCKET_BYTES
