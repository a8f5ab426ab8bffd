"""The exact split, against enumeration and against what must hold of any split."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import InputError
from isthmus.planner.layout import in_flight
from isthmus.planner.schedule import bubble_share
from isthmus.planner.split import Shortfall, Split, SplitProblem, even_ends, score, shortfall, split

MODES = ("none", "auto", "full")


@st.composite
def problems(draw, max_layers=6, max_stages=4):
    """Whole numbers, so that sums are exact whatever their order."""
    S = draw(st.integers(1, max_stages))
    L = draw(st.integers(S, max_layers))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def costs(high):
        return random.integers(0, high, (S, L + 2)).astype(float)

    activation_SB = costs(40)
    return SplitProblem(
        forward_SB=costs(30) + 1,
        backward_SB=costs(60),
        recompute_SB=costs(20),
        state_SB=costs(60),
        activation_SB=activation_SB,
        checkpoint_SB=np.floor(activation_SB * random.random((S, L + 2))),
        fixed_S=random.integers(0, 20, S).astype(float),
        limit_S=random.integers(150, 700, S).astype(float),
        working_S=random.integers(0, 40, S).astype(float) * draw(st.booleans()),
        send_S=random.integers(0, 10, S).astype(float),
        micro_batches=draw(st.sampled_from([1, 2, 3, 8, 64])),
        recompute=draw(st.sampled_from(MODES)),
    )


def stage(problem: SplitProblem, s: int, layers: list[int], again: int) -> tuple[float, float]:
    """(seconds, bytes) of stage s with these layers, the first `again` of them recomputed; by definition."""
    S, B = np.shape(problem.forward_SB)
    m, v = problem.micro_batches, problem.virtual
    flying = in_flight(problem.schedule, S, v, m)[s]
    blocks = [0] * (s == 0) + [1 + layer for layer in layers] + [B - 1] * (s == S - 1)
    seconds, size = float(np.asarray(problem.send_S)[s]) * v, float(np.asarray(problem.fixed_S)[s])
    per_chunk = len(layers) // v
    for block in blocks:
        place = layers.index(block - 1) % per_chunk if 0 < block < B - 1 else again
        redone = place < again
        seconds += np.asarray(problem.forward_SB)[s, block] + np.asarray(problem.backward_SB)[s, block]
        seconds += np.asarray(problem.recompute_SB)[s, block] * redone
        kept = problem.checkpoint_SB if redone else problem.activation_SB
        size += np.asarray(problem.state_SB)[s, block] + flying * np.asarray(kept)[s, block]
    working = np.broadcast_to(problem.working_S, S)[s] if again else 0.0
    return seconds, size + float(working)


def enumerated(problem: SplitProblem) -> float:
    """Least T over all cuts and all recompute counts that fit; infinite if none does."""
    S, B = np.shape(problem.forward_SB)
    v = problem.virtual
    L = (B - 2) // v
    share, best = bubble_share(problem.schedule, v), np.inf
    for inner in combinations(range(1, L), S - 1):
        starts, ends = (0, *inner), (*inner, L)
        options = []
        for s, (a, b) in enumerate(zip(starts, ends, strict=True)):
            counts = {"none": [0], "auto": range(b - a + 1), "full": [b - a]}[problem.recompute]
            layers = [turn * L + i for turn in range(v) for i in range(a, b)]
            weighed = [stage(problem, s, layers, again) for again in counts]
            options.append([time for time, size in weighed if size <= np.asarray(problem.limit_S)[s]])
        for times in product(*options):
            best = min(best, share * sum(times) + (problem.micro_batches - share) * max(times))
    return best


@settings(max_examples=120)
@given(problems())
def test_equal_to_enumeration(problem):
    found = split(problem)
    assert (found.step_s if found else np.inf) == enumerated(problem)


@settings(max_examples=40)
@given(problems(max_layers=4, max_stages=2), st.integers(2, 3), st.integers(0, 99))
def test_virtual_stages_are_the_best_of_alike_rounds(problem, virtual, seed):
    S, B = problem.forward_SB.shape
    wide = np.r_[0, np.tile(np.arange(1, B - 1), virtual), B - 1]
    random = np.random.default_rng(seed)

    def unlike(costs):
        return costs[:, wide] + random.integers(0, 5, (S, wide.size))

    wider = replace(
        problem,
        forward_SB=unlike(problem.forward_SB),
        backward_SB=unlike(problem.backward_SB),
        recompute_SB=problem.recompute_SB[:, wide],
        state_SB=problem.state_SB[:, wide],
        activation_SB=problem.activation_SB[:, wide],
        checkpoint_SB=problem.checkpoint_SB[:, wide],
        limit_S=problem.limit_S * virtual,
        micro_batches=problem.micro_batches * S,
        schedule="interleaved",
        virtual=virtual,
    )
    found, best = split(wider), enumerated(wider)
    assert (found.step_s if found else np.inf) == pytest.approx(best, rel=1e-12)
    if found:
        layers = sorted(i for chunks in found.chunks() for a, b in chunks for i in range(a, b))
        assert layers == list(range((B - 2) * virtual))
        assert all(len(chunks) == virtual for chunks in found.chunks())


@given(problems(max_layers=30, max_stages=8))
def test_every_layer_once_and_memory_held(problem):
    found = split(problem)
    if found is None:
        return
    B = problem.forward_SB.shape[1]
    assert found.ends_S[-1] == B - 2
    assert (np.diff(found.ends_S, prepend=0) >= 1).all()
    for s, ((a, b),) in enumerate(found.chunks()):
        again = int(found.recompute_S[s])
        seconds, size = stage(problem, s, list(range(a, b)), again)
        assert (seconds, size) == (found.time_S[s], found.memory_S[s])
        assert size <= problem.limit_S[s]
        if problem.recompute == "auto" and again:
            assert stage(problem, s, list(range(a, b)), again - 1)[1] > problem.limit_S[s]
        if problem.recompute != "auto":
            assert again == (b - a if problem.recompute == "full" else 0)
    m = problem.micro_batches
    assert found.step_s == found.time_S.sum() + (m - 1) * found.time_S.max()


@given(problems(max_layers=30, max_stages=8), st.randoms(use_true_random=False))
def test_no_cut_is_faster(problem, random):
    S, B = problem.forward_SB.shape
    cuts = [even_ends(B - 2, S), [*sorted(random.sample(range(1, B - 2), S - 1)), B - 2]]
    found = split(problem)
    for ends in cuts:
        other = score(problem, ends)
        if other is not None:
            assert found is not None
            assert found.step_s <= other.step_s
    if found is not None:
        assert score(problem, found.ends_S).step_s == found.step_s


@given(problems(max_layers=20, max_stages=6), st.integers(0, 2**32 - 1))
def test_faster_or_larger_chips_never_hurt(problem, seed):
    random = np.random.default_rng(seed)
    S = len(problem.limit_S)
    before = split(problem)
    factor_S1 = random.choice([1.0, 0.5, 0.25], (S, 1))
    faster = replace(
        problem,
        forward_SB=problem.forward_SB * factor_S1,
        backward_SB=problem.backward_SB * factor_S1,
        recompute_SB=problem.recompute_SB * factor_S1,
    )
    larger = replace(problem, limit_S=problem.limit_S + random.integers(0, 300, S))
    for better in (faster, larger):
        after = split(better)
        if before is not None:
            assert after is not None
            assert after.step_s <= before.step_s


@given(problems(max_layers=20, max_stages=6))
def test_deterministic_and_inputs_stay(problem):
    copies = {name: np.copy(getattr(problem, name)) for name in ("forward_SB", "limit_S", "state_SB")}
    first, second = split(problem), split(problem)
    for name, copy in copies.items():
        assert (getattr(problem, name) == copy).all()
    if first is not None:
        assert second is not None
        assert first.step_s == second.step_s
        assert (first.ends_S == second.ends_S).all()
        assert (first.recompute_S == second.recompute_S).all()


@given(problems(max_layers=8, max_stages=4))
def test_a_shortfall_is_the_least_that_helps(problem):
    lack = shortfall(problem)
    assert (lack.extra_bytes == 0) == (split(problem) is not None)
    assert split(replace(problem, limit_S=problem.limit_S + lack.extra_bytes)) is not None
    if lack.extra_bytes:
        assert split(replace(problem, limit_S=problem.limit_S + lack.extra_bytes - 1)) is None
    assert lack.extra_bytes_recomputed <= lack.extra_bytes
    auto = replace(problem, recompute="auto")
    assert split(replace(auto, limit_S=problem.limit_S + lack.extra_bytes_recomputed)) is not None
    assert lack.layers <= lack.layers_recomputed
    S, B = problem.forward_SB.shape
    fitting = [n for n in range(S, B - 1) if split(first_layers(problem, n)) is not None]
    assert lack.layers == max(fitting, default=0)


def first_layers(problem: SplitProblem, count: int) -> SplitProblem:
    B = problem.forward_SB.shape[1]
    kept = np.r_[np.arange(count + 1), B - 1]
    names = [name for name in SplitProblem.__slots__ if name.endswith("_SB")]
    return replace(problem, **{name: getattr(problem, name)[:, kept] for name in names})


def test_more_stages_than_layers():
    problem = uniform(layers=3, stages=4)
    assert split(problem) is None
    assert shortfall(problem) == Shortfall(np.inf, 0, np.inf, 0)


def uniform(layers: int, stages: int, head: float = 0.0, **changes) -> SplitProblem:
    forward_SB = np.tile(np.r_[0.0, np.ones(layers), head], (stages, 1))
    ones_SB = np.ones((stages, layers + 2))
    return SplitProblem(
        forward_SB=forward_SB,
        backward_SB=2 * forward_SB,
        recompute_SB=forward_SB,
        state_SB=ones_SB,
        activation_SB=4 * ones_SB,
        checkpoint_SB=ones_SB,
        fixed_S=np.zeros(stages),
        limit_S=np.full(stages, 1e6),
        send_S=np.zeros(stages),
        micro_batches=changes.pop("micro_batches", 16),
        **changes,
    )


def test_a_heavy_head_takes_layers_from_the_last_stage():
    found = split(uniform(layers=24, stages=4, head=2.0))
    assert found is not None
    assert found.time_S.max() == 21
    assert np.diff(found.ends_S, prepend=0)[-1] <= 5
    assert found.step_s == 26 * 3 + 15 * 21
    plain = split(uniform(layers=24, stages=4))
    assert plain is not None
    assert np.diff(plain.ends_S, prepend=0).tolist() == [6, 6, 6, 6]
    assert plain.step_s == (16 + 3) * 18


def test_memory_is_tightest_at_the_front():
    found = split(replace(uniform(layers=8, stages=4), limit_S=np.full(4, 27.0)))
    assert found is not None
    assert found.recompute_S.tolist() == sorted(found.recompute_S.tolist(), reverse=True)
    assert found.recompute_S[0] > 0
    assert (found.memory_S <= 27).all()


def test_in_flight_can_be_given():
    problem = replace(uniform(layers=8, stages=4), recompute="none")
    held = split(replace(problem, in_flight_S=np.zeros(4)))
    assert held is not None
    assert held.memory_S.tolist() == [3.0, 2.0, 2.0, 3.0]


def test_refusals():
    with pytest.raises(InputError, match="equal rounds"):
        split(uniform(layers=9, stages=2, schedule="interleaved", virtual=2))
    problem = uniform(layers=8, stages=2)
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="finite"):
            split(replace(problem, state_SB=np.full((2, 10), wrong)))
        with pytest.raises(InputError, match="finite"):
            score(replace(problem, send_S=np.full(2, wrong)), [4, 8])
    for ends in ([4, 7], [8, 8], [8], [0, 8]):
        with pytest.raises(InputError, match="do not cut"):
            score(problem, ends)
    assert isinstance(score(problem, [3, 8]), Split)
