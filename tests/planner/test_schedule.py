"""The simulated pipeline: closed forms, a slow reference written another way, and what holds of any step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InputError
from isthmus.planner.layout import in_flight
from isthmus.planner.schedule import KINDS, Pipeline, bubble_share, makespan, simulate

Key = tuple[str, int, int, int]
"""Kind, stage, chunk, micro-batch."""


def alike(p: int, m: int, schedule="1f1b", v: int = 1, **changes) -> Pipeline:
    """Forward 1 s and backward 2 s on each stage, over its chunks."""
    return Pipeline(
        forward_SV=np.full((p, v), 1 / v),
        backward_SV=np.full((p, v), 2 / v),
        micro_batches=m,
        schedule=schedule,
        **changes,
    )


@pytest.mark.parametrize(("p", "m"), [(1, 1), (1, 5), (2, 1), (4, 4), (4, 16), (8, 3), (16, 40)])
def test_1f1b_of_alike_stages(p, m):
    assert makespan(alike(p, m)) == (m + p - 1) * 3
    assert makespan(alike(p, m, slowdown_S=2.0)) == (m + p - 1) * 6


@pytest.mark.parametrize(("p", "m", "v"), [(2, 2, 2), (4, 8, 2), (4, 8, 4), (8, 16, 2), (8, 8, 8)])
def test_interleaving_divides_the_bubble(p, m, v):
    ideal = 3 * m
    assert makespan(alike(p, m, "interleaved", v)) / ideal - 1 == pytest.approx((p - 1) / (v * m))


@pytest.mark.parametrize(("p", "m"), [(2, 2), (4, 4), (4, 16), (8, 16), (8, 9)])
@pytest.mark.parametrize(("b", "w"), [(1.0, 1.0), (1.5, 0.5), (1.25, 0.75)])
def test_zero_bubble_h1(p, m, b, w):
    pipeline = Pipeline(
        forward_SV=np.ones(p),
        backward_SV=np.full(p, b + w),
        weight_SV=np.full(p, w),
        micro_batches=m,
        schedule="zero-bubble",
    )
    assert makespan(pipeline) == m * (1 + b + w) + (p - 1) * (1 + b - w)


def test_bubble_shares_are_those_of_the_simulation():
    for schedule, v in (("1f1b", 1), ("interleaved", 2), ("zero-bubble", 1)):
        span, share = makespan(alike(4, 8, schedule, v)), bubble_share(schedule, v)
        assert span == pytest.approx(share * 4 * 3 + (8 - share) * 3)


def test_sends_pass_beside_compute():
    """Each of the p - 1 hops is paid once each way; a line busy longer than a stage sets the pace."""
    assert makespan(alike(3, 1, send_S=0.5, latency_S=0.25)) == 9 + 4 * 0.75
    assert makespan(alike(2, 64, send_S=10.0)) > 63 * 10
    assert makespan(alike(2, 64, latency_S=0.25)) < 65 * 3 + 64 * 0.25 + 1
    assert makespan(alike(1, 4, send_S=9.0, latency_S=9.0)) == 12


@st.composite
def pipelines(draw):
    schedule = draw(st.sampled_from(["1f1b", "interleaved", "zero-bubble"]))
    p = draw(st.integers(1, 5))
    v = draw(st.integers(2, 3)) if schedule == "interleaved" else 1
    m = p * draw(st.integers(1, 3)) if v > 1 else draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    backward_SV = random.integers(1, 20, (p, v)).astype(float)
    return Pipeline(
        forward_SV=random.integers(0, 20, (p, v)).astype(float),
        backward_SV=backward_SV,
        micro_batches=m,
        schedule=schedule,
        recompute_SV=random.integers(0, 5, (p, v)).astype(float) * random.integers(0, 2),
        weight_SV=np.floor(backward_SV * random.random((p, v))),
        send_S=random.integers(0, 6, p).astype(float),
        latency_S=random.integers(0, 6, p).astype(float),
        slowdown_S=random.integers(1, 4, p).astype(float),
    )


def order(pipeline: Pipeline, s: int) -> list[Key]:
    """What stage s runs, after the papers' words: lists of forwards and backwards, then merged."""
    p, v = np.shape(pipeline.forward_SV)
    m = pipeline.micro_batches
    groups = [range(first, min(first + p, m)) for first in range(0, m, p)]
    forwards = [("forward", s, c, i) for group in groups for c in range(v) for i in group]
    backwards = [("backward", s, c, i) for group in groups for c in reversed(range(v)) for i in group]
    ahead = p - 1 - s if v == 1 else 2 * (p - 1 - s) + (v - 1) * p
    done, rest = forwards[:ahead], forwards[ahead:]
    for i, backward in enumerate(backwards):
        done += [*rest[i : i + 1], backward]
    if pipeline.schedule != "zero-bubble":
        return done
    for i in range(m):
        after = ("backward", s, 0, i + s)
        at = done.index(after) + 1 if after in done else len(done)
        done.insert(at, ("weight", s, 0, i))
    return done


class Reference:
    """Start and end of each operation: sweeps over all until nothing moves, from the definition."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.shape = pipeline, np.shape(pipeline.forward_SV)
        self.orders = [order(pipeline, s) for s in range(self.shape[0])]
        self.starts = {key: 0.0 for keys in self.orders for key in keys}
        self.ends = dict(self.starts)
        old = None
        while self.ends != old:
            old = dict(self.ends)
            self.sweep()

    def sweep(self) -> None:
        for keys in self.orders:
            free = 0.0
            for key in keys:
                self.starts[key] = max(free, self.source(key))
                self.ends[key] = free = self.starts[key] + self.lasts(key)

    def lasts(self, key: Key) -> float:
        kind, s, c, _ = key

        def of(name: str) -> float:
            return float(np.asarray(getattr(self.pipeline, name))[s, c])

        weight = of("weight_SV") if self.pipeline.schedule == "zero-bubble" else 0.0
        backward = of("backward_SV") - weight + of("recompute_SV")
        seconds = {"forward": of("forward_SV"), "backward": backward, "weight": weight}[kind]
        return seconds * float(np.asarray(self.pipeline.slowdown_S)[s])

    def source(self, key: Key) -> float:
        """When its input is there."""
        (kind, s, c, i), (p, v) = key, self.shape
        if kind == "weight" or (kind == "forward" and s == c == 0):
            return 0.0
        at = c * p + s + (1 if kind == "backward" else -1)
        if at == p * v:
            return self.ends["forward", s, c, i]
        before = (kind, at % p, at // p, i)
        return self.ends[before] if p == 1 else self.arrival(before)

    def arrival(self, key: Key) -> float:
        """Of its message at the neighbour: after all earlier ones of the line."""
        (kind, s, _, _), (p, v) = key, self.shape
        line = s if kind == "forward" else (s - 1) % p
        silent = ("forward", p - 1, v - 1) if kind == "forward" else ("backward", 0, 0)
        free = 0.0
        for each in self.orders[s]:
            if each[0] == kind and each[:3] != silent:
                free = max(free, self.ends[each]) + np.asarray(self.pipeline.send_S)[line]
                if each == key:
                    break
        return free + np.asarray(self.pipeline.latency_S)[line]


@given(pipelines())
def test_equal_to_the_reference(pipeline):
    slow = Reference(pipeline)
    expected = {key: (slow.starts[key], end) for key, end in slow.ends.items()}
    line = simulate(pipeline)
    merged: dict[Key, tuple[float, float]] = {}
    began = None
    for kind, s, c, i, start, end in zip(
        line.kind_N, line.stage_N, line.chunk_N, line.micro_batch_N, line.start_N, line.end_N, strict=True
    ):
        if KINDS[kind] == "recompute":
            began = start
            continue
        key = (KINDS[kind], int(s), int(c), int(i))
        assert key not in merged
        merged[key] = (start if began is None else began, end)
        began = None
    assert merged == expected
    assert line.makespan_s == makespan(pipeline) == max(end for _, end in expected.values())


@given(pipelines())
def test_what_holds_of_any_step(pipeline):
    line = simulate(pipeline)
    p, v = np.shape(pipeline.forward_SV)
    m = pipeline.micro_batches
    assert line.makespan_s >= line.busy_S.max()
    slow_S1 = np.asarray(pipeline.slowdown_S)[:, None]
    per_batch = (
        np.asarray(pipeline.forward_SV) + np.asarray(pipeline.backward_SV) + np.asarray(pipeline.recompute_SV)
    ) * slow_S1
    assert line.busy_S.tolist() == (m * per_batch.sum(1)).tolist()
    for s in range(p):
        mine = line.stage_N == s
        assert (line.end_N[mine][:-1] <= line.start_N[mine][1:]).all(), "one thing at a time"
        seconds = (line.end_N - line.start_N)[mine].sum()
        assert seconds == line.busy_S[s]
        for kind in ("forward", "backward"):
            runs = mine & (line.kind_N == KINDS.index(kind))
            seen = set(zip(line.chunk_N[runs].tolist(), line.micro_batch_N[runs].tolist(), strict=True))
            assert len(seen) == runs.sum() == v * m
    assert line.in_flight_S.tolist() == in_flight(pipeline.schedule, p, v, m).tolist()


@given(pipelines(), st.integers(0, 2**32 - 1))
def test_longer_durations_never_make_a_step_shorter(pipeline, seed):
    random = np.random.default_rng(seed)
    span = makespan(pipeline)
    for name in ("forward_SV", "backward_SV", "recompute_SV", "send_S", "latency_S", "slowdown_S"):
        given_ = np.asarray(getattr(pipeline, name))
        more = given_ + random.integers(0, 4, given_.shape) * (random.random(given_.shape) < 0.4)
        fields = {key: getattr(pipeline, key) for key in Pipeline.__slots__}
        assert makespan(Pipeline(**{**fields, name: more})) >= span


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 20), st.integers(1, 3))
def test_the_closed_form_of_1f1b_is_never_too_low(forward_S, m, ratio):
    """sum + (m - 1) max bounds the step from above where backward is as many forwards on every stage."""
    forward_S = np.array(forward_S, float)
    pipeline = Pipeline(forward_SV=forward_S, backward_SV=ratio * forward_S, micro_batches=m)
    seconds_S = (1 + ratio) * forward_S
    assert makespan(pipeline) <= seconds_S.sum() + (m - 1) * seconds_S.max()


def test_halves_of_backward_are_even_unless_given():
    even = makespan(alike(4, 8, "zero-bubble", weight_SV=np.ones(4)))
    assert makespan(alike(4, 8, "zero-bubble")) == even == 8 * 3 + 3


def test_refusals():
    with pytest.raises(InputError, match="one chunk"):
        makespan(alike(2, 4, "1f1b", 2))
    with pytest.raises(InputError, match="whole groups"):
        makespan(alike(4, 6, "interleaved", 2))
    with pytest.raises(InputError, match="not negative"):
        makespan(alike(2, 4, slowdown_S=-1.0))
    with pytest.raises(InputError, match="micro-batch"):
        makespan(alike(2, 0))
