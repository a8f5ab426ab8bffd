"""Ideal seconds of a run's step, by component: what the belief's factors are multiplied with.

It is `cost.step.step_time` of unit factors, taken apart: linear in the factors but for the exposed part of
the exchange, the bubble and the waiting, which `law.step_log` puts together.
"""

import math
from dataclasses import replace

import msgspec
import numpy as np

from isthmus.planner.belief.query import Features
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.factors import COMPONENTS, Factors
from isthmus.planner.cost.ideal import Setting, ideal_passes
from isthmus.planner.cost.memory import ChipParams, chip_params
from isthmus.planner.cost.network import Network
from isthmus.planner.cost.shapes import EMBEDDING, HEAD, shapes_of
from isthmus.planner.cost.step import exchange_of, hidden_over
from isthmus.planner.cost.table import Floats
from isthmus.planner.cost.tabulate import GRAD_BYTES, block_kinds, component_factors, stage_send_s
from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

EAGER = 1.8
"""Element-wise traffic of code that is not fused, relative to fused code: each operation by itself."""
ASYNC = 0.6
"""Part of the tensor-parallel communication that shows where it runs beside compute."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is trained, as far as the seconds of a step depend on it."""

    model: ModelSpec
    chips: list[ChipModel]
    """Of each stage."""
    network: Network
    """Of the first stage's chips."""
    layout: Layout
    stages: list[int]
    """Layers of each stage."""
    nodes: float
    recomputed: float = 1.0
    """Part of the layers that backward computes again, where the layout recomputes."""
    shard_group: int = 0
    """Replicas that share the optimizer's state (ZeRO 1); 0: all."""
    core: float = 1.0
    """FLOPs of the attention core relative to those of the model's heads over all of the sequence."""
    fused_attention: bool = True
    eager: bool = False
    """Element-wise work is not fused."""
    async_tensor: bool = False
    """Tensor-parallel communication runs beside compute."""
    row_scales: bool = False
    """Narrow formats have a scale for each row."""

    @property
    def chip(self) -> ChipModel:
        """Of the first stage."""
        return self.chips[0]


def features_of(setup: Setup) -> Features:
    passes = {chip.name: _passes(setup, chip) for chip in setup.chips}
    stages = [_stage(setup, index, passes[chip.name]) for index, chip in enumerate(setup.chips)]
    guess = np.append(component_factors(Factors()), Factors().send)
    slowest = max(range(len(stages)), key=lambda index: float(stages[index] @ guess))
    others = np.sum(stages, axis=0) - stages[slowest]
    sync, gather, optimizer = _exchanges(setup)
    return Features(
        compute=(stages[slowest] * setup.layout.micro_batches).tolist(),
        bubble=(others / setup.layout.virtual).tolist() if setup.layout.pp > 1 else [],
        sync=sync,
        gather=gather,
        window=1 / hidden_over(setup.layout),
        optimizer=optimizer,
        doublings=math.log2(setup.nodes),
    )


def _stage(setup: Setup, index: int, passes: Floats) -> Floats:
    """[component + send]: forward, backward and recompute of one micro-batch."""
    first = 1 + sum(setup.stages[:index])
    kinds = block_kinds(setup.model)
    layers = kinds[first : first + setup.stages[index]]
    blocks = [*layers, *([kinds[0]] if index == 0 else [])]
    blocks += [kinds[-1]] if index == setup.layout.pp - 1 else []
    seconds = passes[blocks, 0] + passes[blocks, 1] + setup.recomputed * passes[blocks, 2]
    ideal = seconds.sum(axis=0)
    if setup.eager:
        ideal[[COMPONENTS.index(name) for name in ("elementwise", "scores", "launch")]] *= EAGER
    ideal[COMPONENTS.index("cast")] *= _rowwise(setup)
    ideal[COMPONENTS.index("tensor")] *= ASYNC if setup.async_tensor else 1.0
    sends = 2 * setup.layout.virtual * stage_send_s(setup.model, setup.network, setup.layout)
    return np.append(ideal, sends)


def _rowwise(setup: Setup) -> float:
    """A scale for each row takes a pass of its own, and what tensor parallelism gathered is converted after
    that, by each of its chips."""
    return 1 + setup.layout.tp if setup.row_scales else 1.0


def _passes(setup: Setup, chip: ChipModel) -> Floats:
    """`ideal_passes` of a stage on this chip."""
    network = setup.network if chip == setup.chip else Network.of(chip)
    setting = Setting.of(setup.model, chip, network, setup.layout, setup.fused_attention)
    return ideal_passes(setup.model, network, replace(setting, core=setup.core))


def stage_params(setup: Setup, index: int) -> ChipParams:
    """Parameters of one chip of the stage."""
    shapes = shapes_of(setup.model)
    first = 1 + sum(setup.stages[:index])
    kinds = [EMBEDDING] * (index == 0) + shapes.kinds[first : first + setup.stages[index]].tolist()
    kinds += [HEAD] * (index == setup.layout.pp - 1)
    blocks = [chip_params(shapes, setup.layout, kind) for kind in kinds]
    return ChipParams(sum(each.dense for each in blocks), sum(each.experts for each in blocks))


def _exchanges(setup: Setup) -> tuple[float, float, float]:
    """(gradients, weights after the update, optimizer) of the stage with the most parameters."""
    params = [stage_params(setup, index) for index in range(setup.layout.pp)]
    most = max(params, key=lambda each: each.dense + each.experts)
    exchange = exchange_of(setup.chip, setup.network, setup.layout, setup.shard_group)
    sync = exchange.latency_s + GRAD_BYTES * (
        most.dense * exchange.dense_s + most.experts * exchange.expert_s
    )
    gather = GRAD_BYTES * (most.dense * exchange.gather_s + most.experts * exchange.expert_gather_s)
    optimizer = most.dense * exchange.optimizer_s + most.experts * exchange.expert_optimizer_s
    return sync, gather, optimizer


def place_of(model: ModelSpec, layout: Layout) -> list[float]:
    """Coordinates, as `query.PLACE` names them."""
    values = [
        math.log(model.hidden_size / layout.tp),
        math.log(model.hidden_size),
        math.log(layout.micro_batch * layout.seq_len / layout.cp),
        math.log(layout.seq_len),
        math.log(layout.dp * layout.cp),
        math.log(layout.pp),
        math.log(layout.virtual),
        math.log(layout.micro_batches),
        math.log(layout.tp),
        math.log(1 + model.num_experts),
        math.log(layout.ep),
        {"none": 0.0, "selective": 0.5, "full": 1.0}[layout.recompute],
        model.num_layers / 40,
    ]
    return [round(value, 4) for value in values]
