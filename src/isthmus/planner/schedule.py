"""One step of a pipeline, event by event: unlike stages, sends between them, three schedules.

Every stage runs its operations in an order that is fixed beforehand, as Megatron-LM and PyTorch run them:

- 1f1b: stage s of S first runs min(m, S - 1 - s) forwards, then a forward and a backward in turn, then the
  backwards that are left (Narayanan et al., arXiv 2006.09503).
- interleaved: stage s holds the chunks s, S + s, ..., (v - 1) S + s of the model, and micro-batches pass in
  groups of S through all chunks; 2 (S - 1 - s) + (v - 1) S forwards come first (arXiv 2104.04473).
- zero-bubble: ZB-H1 (Qi et al., arXiv 2401.10241). Backward is halved: the gradient of the input goes back at
  once, the gradient of the weights follows s micro-batches later, which keeps S micro-batches in flight.

An operation starts when its stage is free and its input is there. So every start is a maximum over sums of
durations, the result does not depend on the order in which events are worked out, and no duration that grows
makes a step shorter. A message leaves when its operation ends; the line to the neighbour carries messages one
after the other, each direction by itself, while both stages compute.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isthmus.errors import InputError
from isthmus.planner import schedule_kernel as kernel
from isthmus.planner.layout import Schedule

KINDS = ("forward", "backward", "weight", "recompute")
"""Of `Timeline.kind_N`. weight: the gradient of the weights, where it is an operation by itself."""
_NUMBER = {"1f1b": kernel.ONE_F_ONE_B, "interleaved": kernel.INTERLEAVED, "zero-bubble": kernel.ZERO_BUBBLE}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Seconds of one micro-batch on each stage and chunk, [S, V]; [S] will do for one chunk."""

    forward_SV: ArrayLike
    backward_SV: ArrayLike
    """Both gradients together."""
    micro_batches: int
    schedule: Schedule = "1f1b"
    recompute_SV: ArrayLike = 0.0
    """Before each backward."""
    weight_SV: ArrayLike | None = None
    """The part of backward_SV that makes the weights' gradients; None: half. Zero-bubble alone asks."""
    send_S: ArrayLike = 0.0
    """Seconds that a message takes up the line from stage s to the next, or from there back; the last
    stage's leads to the first and is used by interleaved chunks only."""
    latency_S: ArrayLike = 0.0
    """Seconds that it travels beyond that, while the next is sent."""
    slowdown_S: ArrayLike = 1.0
    """Factor on a stage's seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The operations, stage by stage in the order in which each runs them."""

    makespan_s: float
    kind_N: Ints
    """Index into KINDS."""
    stage_N: Ints
    chunk_N: Ints
    micro_batch_N: Ints
    start_N: Floats
    end_N: Floats
    busy_S: Floats
    """Seconds in which each stage computes."""
    in_flight_S: Floats
    """Most micro-batches whose activations a stage holds, counted in chunks / v."""


def makespan(pipeline: Pipeline) -> float:
    """Seconds of one step, without the optimizer and what crosses data-parallel replicas.

    Raises InputError if the pipeline and its schedule do not go together.
    """
    return _run(pipeline)[1][1]


def simulate(pipeline: Pipeline) -> Timeline:
    """The step with all its operations. Raises InputError as `makespan`."""
    (ops, seconds_KSV, again_SV), (start, span) = _run(pipeline)
    S, N, _ = ops.shape
    stage, (kind, chunk, batch) = np.repeat(np.arange(S), N), ops.reshape(-1, 3).T.astype(np.int64)
    duration = seconds_KSV[kind, stage, chunk]
    again = np.where(kind == kernel.BACKWARD, again_SV[stage, chunk], 0.0)
    start = start.ravel()
    rows = np.flatnonzero(again > 0)
    kind, stage, chunk, batch = (np.insert(each, rows, each[rows]) for each in (kind, stage, chunk, batch))
    first = np.insert(start + again, rows, start[rows])
    end = np.insert(start + duration, rows, (start + again)[rows])
    kind[rows + np.arange(rows.size)] = KINDS.index("recompute")
    return Timeline(
        makespan_s=span,
        kind_N=kind, stage_N=stage, chunk_N=chunk, micro_batch_N=batch, start_N=first, end_N=end,
        busy_S=duration.reshape(S, N).sum(1),
        in_flight_S=kernel.most_in_flight(ops) / seconds_KSV.shape[2],
    )  # fmt: skip


def bubble_share(schedule: Schedule, virtual: int) -> float:
    """c in the closed form of a step, c * sum_s t_s + (m - c) * max_s t_s with t_s of one micro-batch.

    1f1b: 1. interleaved: 1 / v (arXiv 2104.04473, sec. 2.2). zero-bubble: 1 / 3, that is (f + b - w) /
    (f + b + w) where forward and the halves of backward take equally long (arXiv 2401.10241, table 1).
    Exact where all stages are alike and m >= S.
    """
    return {"1f1b": 1.0, "interleaved": 1.0 / virtual, "zero-bubble": 1.0 / 3.0}[schedule]


def _run(pipeline: Pipeline) -> tuple[tuple[NDArray[np.int32], Floats, Floats], tuple[Floats, float]]:
    """((operations [S, N, 3], seconds [3, S, V], recompute [S, V]), (start [S, N], makespan))."""
    m = pipeline.micro_batches
    seconds_KSV, again_SV = _seconds(pipeline)
    _, S, V = seconds_KSV.shape
    if m < 1 or not S:
        raise InputError("a pipeline needs a stage and a micro-batch")
    if V > 1 and pipeline.schedule != "interleaved":
        raise InputError(f"{pipeline.schedule} has one chunk per stage, not {V}", hint="interleaved")
    if pipeline.schedule == "interleaved" and V > 1 and m % S:
        raise InputError(
            f"{m} micro-batches do not pass {S} interleaved stages in whole groups",
            hint=f"a multiple of {S}",
        )
    line_KS = np.array([np.broadcast_to(each, S) for each in (pipeline.send_S, pipeline.latency_S)], float)
    ops = kernel.orders(_NUMBER[pipeline.schedule], S, V, m)
    start, span = kernel.run(ops, seconds_KSV, line_KS)
    assert span >= 0, "a schedule waits for itself"
    return (ops, seconds_KSV, again_SV), (start, float(span))


def _seconds(pipeline: Pipeline) -> tuple[Floats, Floats]:
    """Seconds [3, S, V] of each kind, and what of backward's is recompute."""
    forward_SV = np.array(pipeline.forward_SV, float)
    forward_SV = forward_SV.reshape(len(forward_SV), -1)
    shape = forward_SV.shape

    def fill(value: ArrayLike) -> Floats:
        given = np.asarray(value, float)
        return np.broadcast_to(given[:, None] if given.ndim == 1 else given, shape)

    whole_SV, again_SV = fill(pipeline.backward_SV), fill(pipeline.recompute_SV)
    weight_SV = np.zeros(shape)
    if pipeline.schedule == "zero-bubble":
        weight_SV = fill(pipeline.weight_SV) if pipeline.weight_SV is not None else whole_SV / 2
    slow_S1 = np.broadcast_to(np.asarray(pipeline.slowdown_S, float), shape[0])[:, None]
    seconds_KSV = np.array((forward_SV, whole_SV - weight_SV + again_SV, weight_SV)) * slow_S1
    if not (np.isfinite(seconds_KSV).all() and (seconds_KSV >= 0).all()):
        raise InputError("seconds of a stage must be finite and not negative")
    return seconds_KSV, again_SV * slow_S1
