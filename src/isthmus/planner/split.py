"""Which layers each stage of a pipeline holds, and how many of them are recomputed: the exact best.

Blocks 0..B-1 in order: the embedding, L = B - 2 layers, the output head with the loss. Stages 0..S-1 in a
given order, on unlike chips. Every stage holds at least one layer, the first also the embedding, the last
also the head. A stage that would not fit in memory recomputes its first k layers, k as small as possible
(Megatron-LM: `--recompute-method block`). With t_s the seconds of a micro-batch on stage s (forward,
backward, recompute, sends) a step of m micro-batches takes

    T = c sum_s t_s + (m - c) max_s t_s

with c = 1 for 1F1B: the first micro-batch passes every stage, and the slowest stage passes the m - 1 others
(Narayanan et al., arXiv 2104.04473, sec. 2.2). `schedule.bubble_share` has c of the other schedules.

Memory of stage s: fixed + sum of its blocks' states + n_s * (checkpoints of the first k layers + activations
of its other blocks), with n_s micro-batches in flight (`layout.in_flight`), and, if k > 0, what a recomputed
layer needs for a moment (`working_S`).

**Method.** D(q) = least sum_s t_s among the cuts with t_s < q on every stage: a dynamic program over
(stage, end of its layers), S (L - S + 1)^2 / 2 steps at most. Recompute needs no dimension of its own: t_s
rises with k, T rises with every t_s, and stages share no memory, so the smallest k that fits is best on each
stage by itself. A second such program gives q* = least max_s t_s, and filling one stage after the other up to
a cap gives some cut to begin with. Then, from q = (its T - c D0) / (m - c), with D0 = the sum over the blocks
of the fewest seconds that any stage takes:

1. x = the cut of D(q), p = its max_s t_s, T(x) = c D(q) + (m - c) p; keep the best cut so far.
2. Stop if c D(q) + (m - c) q* >= best.
3. q = min(p, (best - c D(q)) / (m - c)), and again.

**Why it is exact.** Let y be a cut that a lowering of q excludes: some t_s of y is >= q. If q = p, then
sum(y) >= D by minimality and max(y) >= p, so T(y) >= T(x) >= best. If q is the other value, then sum(y) >= D
(D0 at the beginning) and max(y) >= q give T(y) >= c D + (m - c) q = best. At the stop every cut that is left
has sum >= D and max >= q*, so T >= best. Each round lowers q to a smaller one of finitely many stage times
or below, so it ends; in practice after a few rounds. (Sums are in double precision: the answer is exact up to
their rounding, and in full where costs are whole numbers below 2^53.)

**Virtual stages** (v > 1): the layers are cut into v equal rounds (v must divide L), and every round is cut
alike: stage s takes the same places of each round, so chunk r of stage s holds layers r L / v + a <= i <
r L / v + b, and k counts the recomputed layers of each chunk. Within this family the answer is the exact
best of T; unlike rounds are not tried. Layers of a stage count as many micro-batches in flight as its chunks
do on average, which is exact if the layers are alike.

**What T leaves out.** It is the exact time of alike stages. Unlike ones take at most T with 1F1B, if nothing
is sent and backward takes the same multiple of forward on each; otherwise they may take more or less, so the
best few plans are worth a simulation (`schedule.makespan`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus.errors import InputError
from isthmus.planner import split_kernel as kernel
from isthmus.planner.layout import Schedule, in_flight
from isthmus.planner.schedule import bubble_share

RecomputeMode = Literal["none", "auto", "full"]
"""No layer; as many as memory asks for; all."""
_MODES = {"none": kernel.NONE, "auto": kernel.AUTO, "full": kernel.FULL}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitProblem:
    """Costs of every block on every stage's chip, [S, B]; nothing may be negative. Seconds and bytes."""

    forward_SB: ArrayLike
    """One micro-batch."""
    backward_SB: ArrayLike
    recompute_SB: ArrayLike
    """Added if the block is recomputed."""
    state_SB: ArrayLike
    """Weights, gradients, optimizer."""
    activation_SB: ArrayLike
    """Kept of each micro-batch in flight."""
    checkpoint_SB: ArrayLike
    """Kept instead if the block is recomputed."""
    fixed_S: ArrayLike
    """Whatever the stage holds."""
    limit_S: ArrayLike
    """What may be used."""
    send_S: ArrayLike
    """Added to a stage for handing on one micro-batch, both directions; with v chunks it counts v times."""
    micro_batches: int
    recompute: RecomputeMode = "auto"
    schedule: Schedule = "1f1b"
    virtual: int = 1
    """Chunks per stage; > 1 goes with the interleaved schedule alone."""
    working_S: ArrayLike = 0.0
    """Held besides where any layer is recomputed: what comes back while its backward runs."""
    in_flight_S: ArrayLike | None = None
    """Micro-batches in flight; None: what the schedule has."""


@dataclass(frozen=True, slots=True)
class Split:
    step_s: float
    """T of the module's docstring."""
    ends_S: Ints
    """Stage s holds the layers ends[s-1] <= i < ends[s] (layers from 0); with chunks: of each round."""
    recompute_S: Ints
    """Its first layers that are recomputed; with chunks: of each."""
    time_S: Floats
    """Seconds of a micro-batch on each stage, all chunks."""
    memory_S: Floats
    """Bytes at the peak."""
    virtual: int = 1

    def chunks(self) -> list[list[tuple[int, int]]]:
        """(first layer, end) of each chunk of each stage, `virtual` of them."""
        ends = [int(end) for end in self.ends_S]
        firsts = [0, *ends[:-1]]
        rounds = [turn * ends[-1] for turn in range(self.virtual)]
        return [[(at + a, at + b) for at in rounds] for a, b in zip(firsts, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a problem without a split lacks."""

    extra_bytes: float
    """Bytes that every chip would need more, at the least; 0: it fits; infinite: fewer layers than stages."""
    layers: int
    """Most layers, from the first on, with which the model would fit; 0: not even one per stage."""
    extra_bytes_recomputed: float
    """As `extra_bytes`, with recompute where it helps."""
    layers_recomputed: int


def split(problem: SplitProblem) -> Split | None:
    """The cut of least T; None if nothing fits. Of equal cuts always the same one is taken.

    Raises InputError where costs are negative or not finite, or `virtual` does not divide the layers.
    """
    cost_KSB, stage_KS = _arrays(problem)
    if cost_KSB.shape[2] - 2 < cost_KSB.shape[1]:
        return None
    share = bubble_share(problem.schedule, problem.virtual)
    step_s, ends, again, seconds, size = kernel.solve(
        cost_KSB, stage_KS, _MODES[problem.recompute], share, float(problem.micro_batches)
    )
    if step_s != step_s:
        raise InputError("costs of a split must be finite and not negative")
    return Split(step_s, ends, again, seconds, size, problem.virtual) if step_s < np.inf else None


def score(problem: SplitProblem, ends_S: ArrayLike) -> Split | None:
    """T of a given cut with the least recompute that fits; None if it does not fit. `ends_S` as in Split.

    Raises InputError if it leaves a stage without layers or a layer without a stage.
    """
    cost_KSB, stage_KS = _arrays(problem)
    ends = np.array(ends_S, np.int64)
    layers = cost_KSB.shape[2] - 2
    if ends.shape != stage_KS.shape[1:] or ends[-1] != layers or (np.diff(ends, prepend=0) < 1).any():
        raise InputError(f"ends {ends.tolist()} do not cut {layers} layers into {stage_KS.shape[1]} stages")
    sums, sound = kernel.sums_of(cost_KSB, stage_KS)
    if not sound:
        raise InputError("costs of a split must be finite and not negative")
    fits, again, seconds, size = kernel.describe(sums, stage_KS, _MODES[problem.recompute], ends)
    share = bubble_share(problem.schedule, problem.virtual)
    step_s = share * sum(seconds.tolist()) + (problem.micro_batches - share) * seconds.max()
    return Split(float(step_s), ends, again, seconds, size, problem.virtual) if fits else None


def even_ends(num_layers: int, num_stages: int) -> Ints:
    """The uniform cut: no stage has two layers more than another, the first ones have the odd ones."""
    sizes = np.full(num_stages, num_layers // num_stages, np.int64)
    sizes[: num_layers % num_stages] += 1
    return np.cumsum(sizes)


def shortfall(problem: SplitProblem) -> Shortfall:
    """Why nothing fits: the exact least change of memory, or of layers, that would make it feasible.

    Extra bytes: min over the cuts of max over the stages of (bytes - limit), by dynamic programming; the same
    table has the answer for every smaller number of layers. Raises InputError as `split`.
    """
    cost_KSB, stage_KS = _arrays(problem)
    plain = _missing(cost_KSB, stage_KS, problem.recompute)
    helped = plain if problem.recompute == "auto" else _missing(cost_KSB, stage_KS, "auto")
    stages, virtual = stage_KS.shape[1], problem.virtual

    def layers(missing: Floats) -> int:
        fitting = np.flatnonzero(missing <= 0)
        return (stages + int(fitting[-1])) * virtual if fitting.size else 0

    def extra(missing: Floats) -> float:
        return max(0.0, float(missing[-1])) if missing.size else float("inf")

    return Shortfall(extra(plain), layers(plain), extra(helped), layers(helped))


def _missing(cost_KSB: Floats, stage_KS: Floats, mode: RecomputeMode) -> Floats:
    if cost_KSB.shape[2] - 2 < cost_KSB.shape[1]:
        return np.zeros(0)
    return kernel.missing(cost_KSB, stage_KS, _MODES[mode])


def _arrays(problem: SplitProblem) -> tuple[Floats, Floats]:
    """(costs [6, S, B], stages [5, S]) as the kernels take them, with the rounds of chunks added up."""
    cost_KSB = np.array(
        (
            problem.forward_SB, problem.backward_SB, problem.recompute_SB,
            problem.state_SB, problem.activation_SB, problem.checkpoint_SB,
        ),
        np.float64,
    )  # fmt: skip
    S, V = cost_KSB.shape[1], problem.virtual
    if V > 1:
        cost_KSB = _folded(cost_KSB, V)
    flying = problem.in_flight_S
    if flying is None:
        flying = in_flight(problem.schedule, S, V, problem.micro_batches)
    stage_KS = np.empty((5, S), np.float64)
    stage_KS[0], stage_KS[1], stage_KS[3] = problem.fixed_S, problem.limit_S, flying
    stage_KS[4] = problem.working_S
    stage_KS[2] = np.multiply(problem.send_S, V)
    return cost_KSB, stage_KS


def _folded(cost_KSB: Floats, virtual: int) -> Floats:
    """Costs of a model of one round, each layer the sum of the layers at its place in all rounds."""
    K, S, B = cost_KSB.shape
    if (B - 2) % virtual:
        raise InputError(f"{B - 2} layers do not make {virtual} equal rounds", hint="another `virtual`")
    rounds = cost_KSB[:, :, 1:-1].reshape(K, S, virtual, -1).sum(2)
    return np.concatenate((cost_KSB[:, :, :1], rounds, cost_KSB[:, :, -1:]), axis=2)
