"""Costs of a model's blocks on one kind of chip under one layout, as the search asks for them.

Blocks of one kind cost the same, so the arithmetic is done for the four kinds and spread over the blocks.
"""

import numpy as np
from numpy.typing import NDArray

from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.factors import COMPONENTS, Factors
from isthmus.planner.cost.ideal import DENSE, EMBEDDING, HEAD, MOE, Setting, element_bytes, ideal_passes
from isthmus.planner.cost.memory import (
    FIXED_BYTES,
    checkpoint_bytes,
    embedding_params,
    head_activation_bytes,
    head_params,
    layer_activation_bytes,
    layer_params,
    state_bytes,
)
from isthmus.planner.cost.network import Network, send_s
from isthmus.planner.cost.table import Floats, Table
from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

GRAD_BYTES = 4
"""Of one parameter's gradient as the replicas sum it up."""


def tabulate(model: ModelSpec, chip: ChipModel, network: Network, layout: Layout, factors: Factors) -> Table:
    """Seconds and bytes of every block (0: embedding, 1..L: layers, L + 1: head and loss)."""
    kinds = block_kinds(model)
    setting = Setting.of(model, chip, network, layout, factors.fused_attention)
    passes = ideal_passes(model, network, setting)
    scaled = passes * component_factors(factors)
    seconds = scaled.sum(axis=2) * factors.total
    memory = _bytes(model, layout)[:, kinds]
    forward_backward = (scaled[:, 0] + scaled[:, 1]) * factors.total
    return Table(
        forward_s=seconds[kinds, 0],
        backward_s=seconds[kinds, 1],
        recompute_s=seconds[kinds, 2],
        state_bytes=memory[0],
        activation_bytes=memory[1],
        checkpoint_bytes=memory[2],
        sync_bytes=memory[3] * GRAD_BYTES,
        expert_sync_bytes=memory[4] * GRAD_BYTES,
        params=memory[3] + memory[4],
        fixed_bytes=FIXED_BYTES,
        send_s=factors.send * factors.total * stage_send_s(model, network, layout),
        parts={name: forward_backward[kinds, index] for index, name in enumerate(COMPONENTS)},
    )


def component_factors(factors: Factors) -> Floats:
    """[component]"""
    return np.array([getattr(factors, name) for name in COMPONENTS])


def stage_send_s(model: ModelSpec, network: Network, layout: Layout) -> float:
    """Ideal seconds of a micro-batch's activations to the next stage, each chip sending its part."""
    if layout.pp == 1:
        return 0.0
    rows = layout.micro_batch * layout.seq_len / layout.cp / layout.tp
    line = network.line(2, layout.tp * layout.cp * layout.dp)
    return send_s(line, rows * model.hidden_size * element_bytes(layout))


def block_kinds(model: ModelSpec) -> NDArray[np.intp]:
    """[L + 2]: EMBEDDING, then DENSE or MOE for each layer, then HEAD."""
    kinds = np.full(model.num_layers + 2, DENSE)
    kinds[0], kinds[-1] = EMBEDDING, HEAD
    if model.num_experts:
        kinds[1 + model.first_moe_layer : -1 : model.moe_every] = MOE
        kinds[[1 + layer for layer in model.dense_layers if layer < model.num_layers]] = DENSE
    return kinds


def _bytes(model: ModelSpec, layout: Layout) -> Floats:
    """[quantity, kind]: state, activations, checkpoint, dense parameters, parameters of experts."""
    params = [
        embedding_params(model, layout),
        layer_params(model, layout, moe=False),
        layer_params(model, layout, moe=True) if model.num_experts else layer_params(model, layout, False),
        head_params(model, layout),
    ]
    kept = checkpoint_bytes(model, layout)
    layers = [layer_activation_bytes(model, layout, moe) for moe in (False, True)]
    return np.array(
        [
            [state_bytes(each, layout) for each in params],
            [kept, *layers, head_activation_bytes(model, layout)],
            [kept, kept, kept, kept],
            [each.dense for each in params],
            [each.experts for each in params],
        ]
    )
