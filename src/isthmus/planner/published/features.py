"""Ideal seconds of a row's step, by component: what the belief's factors are multiplied with.

It is `cost.step.step_time` of unit factors, taken apart: linear in the factors but for the exposed part of
the exchange, the bubble and the waiting, which `belief.step_log` puts together.
"""

import math
from dataclasses import replace

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
from isthmus.planner.published.case import Case

EAGER = 1.8
"""Element-wise traffic of code that is not fused, relative to fused code: each operation by itself."""
ASYNC = 0.6
"""Part of the tensor-parallel communication that shows where it runs beside compute."""


def features_of(case: Case) -> Features:
    passes = {chip.name: _passes(case, chip) for chip in case.chips}
    stages = [_stage(case, index, passes[chip.name]) for index, chip in enumerate(case.chips)]
    guess = np.append(component_factors(Factors()), Factors().send)
    slowest = max(range(len(stages)), key=lambda index: float(stages[index] @ guess))
    others = np.sum(stages, axis=0) - stages[slowest]
    sync, gather, optimizer = _exchanges(case)
    return Features(
        compute=(stages[slowest] * case.layout.micro_batches).tolist(),
        bubble=(others / case.layout.virtual).tolist() if case.layout.pp > 1 else [],
        sync=sync,
        gather=gather,
        window=1 / hidden_over(case.layout),
        optimizer=optimizer,
        doublings=math.log2(case.nodes),
    )


def _stage(case: Case, index: int, passes: Floats) -> Floats:
    """[component + send]: forward, backward and recompute of one micro-batch."""
    first = 1 + sum(case.stages[:index])
    kinds = block_kinds(case.model)
    layers = kinds[first : first + case.stages[index]]
    blocks = [*layers, *([kinds[0]] if index == 0 else [])]
    blocks += [kinds[-1]] if index == case.layout.pp - 1 else []
    seconds = passes[blocks, 0] + passes[blocks, 1] + case.recomputed * passes[blocks, 2]
    ideal = seconds.sum(axis=0)
    if case.eager:
        ideal[[COMPONENTS.index(name) for name in ("elementwise", "scores", "launch")]] *= EAGER
    ideal[COMPONENTS.index("cast")] *= _rowwise(case)
    ideal[COMPONENTS.index("tensor")] *= ASYNC if case.async_tensor else 1.0
    sends = 2 * case.layout.virtual * stage_send_s(case.model, case.network, case.layout)
    return np.append(ideal, sends)


def _rowwise(case: Case) -> float:
    """A scale for each row takes a pass of its own, and what tensor parallelism gathered is converted after
    that, by each of its chips."""
    return 1 + case.layout.tp if "row" in case.recipe else 1.0


def _passes(case: Case, chip: ChipModel) -> Floats:
    """`ideal_passes` of a stage on this chip."""
    network = case.network if chip == case.chip else Network.of(chip)
    setting = Setting.of(case.model, chip, network, case.layout, case.framework.fused_attention)
    return ideal_passes(case.model, network, replace(setting, core=case.core))


def stage_params(case: Case, index: int) -> ChipParams:
    """Parameters of one chip of the stage."""
    shapes = shapes_of(case.model)
    first = 1 + sum(case.stages[:index])
    kinds = [EMBEDDING] * (index == 0) + shapes.kinds[first : first + case.stages[index]].tolist()
    kinds += [HEAD] * (index == case.layout.pp - 1)
    blocks = [chip_params(shapes, case.layout, kind) for kind in kinds]
    return ChipParams(sum(each.dense for each in blocks), sum(each.experts for each in blocks))


def _exchanges(case: Case) -> tuple[float, float, float]:
    """(gradients, weights after the update, optimizer) of the stage with the most parameters."""
    params = [stage_params(case, index) for index in range(case.layout.pp)]
    most = max(params, key=lambda each: each.dense + each.experts)
    exchange = exchange_of(case.chip, case.network, case.layout, case.shard_group)
    sync = exchange.latency_s + GRAD_BYTES * (
        most.dense * exchange.dense_s + most.experts * exchange.expert_s
    )
    gather = GRAD_BYTES * (most.dense * exchange.gather_s + most.experts * exchange.expert_gather_s)
    optimizer = most.dense * exchange.optimizer_s + most.experts * exchange.expert_optimizer_s
    return sync, gather, optimizer
