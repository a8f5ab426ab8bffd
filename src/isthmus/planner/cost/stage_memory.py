"""Peak bytes on the chips of each stage of a pipeline, by what they are spent on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from isthmus.planner.cost.convention import MEGATRON, Convention
from isthmus.planner.cost.memory import (
    Kept,
    State,
    chip_params,
    fixed_bytes,
    gathered_bytes,
    kept_bytes,
    state_bytes,
)
from isthmus.planner.cost.shapes import EMBEDDING, HEAD, Shapes
from isthmus.planner.layout import Layout, in_flight

NINE_OF_TEN = 1.2816
"""Quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes on each chip of one stage, at the peak."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    """Kept for all micro-batches in flight."""
    transient: float
    """What comes and goes: the loss, a layer's working set, gathered parameters."""
    fixed: float
    """Context, communication, and what the allocator wastes."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.transient + self.fixed


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Of one kind each, in the order of `shapes`."""

    state: list[State]
    kept: list[Kept]
    gathered: list[float]


def pipeline_memory(
    shapes: Shapes,
    layout: Layout,
    bounds: Sequence[tuple[int, int]],
    convention: Convention = MEGATRON,
    recompute_layers: Sequence[int] = (),
) -> list[StageMemory]:
    """One for each stage.

    Args:
        bounds: (first, end) layer of each stage, over all its chunks together.
        recompute_layers: how many layers of each stage are recomputed whole; empty: as the layout says.
    """
    params = [chip_params(shapes, layout, kind) for kind in range(4)]
    blocks = _Blocks(
        [state_bytes(each, layout, convention) for each in params],
        [kept_bytes(shapes, layout, convention, kind) for kind in range(4)],
        [gathered_bytes(each, layout, convention) for each in params],
    )
    schedule = "interleaved" if layout.virtual > 1 else "1f1b"
    flying = in_flight(schedule, layout.pp, layout.virtual, layout.micro_batches).tolist()
    stages = []
    for stage, (first, end) in enumerate(bounds):
        kinds = shapes.kinds[first + 1 : end + 1].tolist()
        again = recompute_layers[stage] if recompute_layers else 0
        ends = (stage == 0, stage == len(bounds) - 1)
        stages.append(_stage(blocks, kinds, ends, (flying[stage], again), layout, convention))
    return stages


def _stage(
    blocks: _Blocks,
    kinds: list[int],
    ends: tuple[bool, bool],
    run: tuple[float, int],
    layout: Layout,
    convention: Convention,
) -> StageMemory:
    """Args:
    ends: (holds the embedding, holds the head).
    run: (micro-batches in flight, layers recomputed whole).
    """
    flying, again = run
    held = [EMBEDDING] * ends[0] + kinds + [HEAD] * ends[1]
    states = [blocks.state[kind] for kind in held]
    kept = [blocks.kept[kind] for kind in kinds]
    activations = sum(each.checkpoint for each in kept[:again]) + sum(
        each.activations for each in kept[again:]
    )
    activations = flying * (activations + ends[0] * blocks.kept[EMBEDDING].activations)
    working = [each.recomputed for each in kept[:again]] + [each.working for each in kept[again:]]
    working = [own + blocks.gathered[kind] for own, kind in zip(working, kinds, strict=True)]
    loss = blocks.kept[HEAD].activations + blocks.gathered[HEAD] if ends[1] else 0.0
    transient = max([loss, *working])
    gradients = sum(each.gradients for each in states)
    if not convention.grad_buffers and layout.micro_batches == 1:
        gradients -= min(gradients, activations)
    return StageMemory(
        weights=sum(each.weights for each in states),
        gradients=gradients,
        optimizer=sum(each.optimizer for each in states),
        activations=activations,
        transient=transient,
        fixed=fixed_bytes(layout, convention) + convention.fragmentation * (activations + transient),
    )


def upper_bytes(stage: StageMemory, convention: Convention) -> float:
    """What nine of ten such runs stay below, by the convention's spread."""
    return stage.total * math.exp(NINE_OF_TEN * convention.spread)


def even_bounds(num_layers: int, num_stages: int) -> list[tuple[int, int]]:
    """Consecutive layers, the first stages one more where they do not divide."""
    each, more = divmod(num_layers, num_stages)
    firsts = [stage * each + min(stage, more) for stage in range(num_stages + 1)]
    return list(pairwise(firsts))
