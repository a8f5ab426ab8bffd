"""Costs of a model's blocks on one kind of chip under one layout, as the search asks for them.

Blocks of one kind cost the same, so the arithmetic is done for the four kinds and spread over the blocks.
"""

import numpy as np
from numpy.typing import NDArray

from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.convention import MEGATRON, Convention
from isthmus.planner.cost.factors import COMPONENTS, Factors
from isthmus.planner.cost.ideal import Setting, element_bytes, ideal_passes
from isthmus.planner.cost.memory import block_bytes
from isthmus.planner.cost.network import Network
from isthmus.planner.cost.network import send_s as message_s
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.table import Floats, Table
from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

GRAD_BYTES = 4
"""Of one parameter's gradient as the replicas sum it up."""


def tabulate(
    model: ModelSpec,
    chip: ChipModel,
    network: Network,
    layout: Layout,
    factors: Factors,
    convention: Convention = MEGATRON,
) -> Table:
    """Seconds and bytes of every block (0: embedding, 1..L: layers, L + 1: head and loss)."""
    send = factors.send * factors.total * stage_send_s(model, network, layout)
    return spread(model, layout, kind_seconds(model, chip, network, layout, factors), send, convention)


def kind_seconds(
    model: ModelSpec, chip: ChipModel, network: Network, layout: Layout, factors: Factors
) -> Floats:
    """[kind, pass, component]: of a micro-batch, passes as in `ideal_passes`. The same for layouts with other
    stages, replicas and sharding."""
    setting = Setting.of(model, chip, network, layout, factors.fused_attention)
    return ideal_passes(model, network, setting) * component_factors(factors) * factors.total


def spread(
    model: ModelSpec, layout: Layout, seconds_KPC: Floats, send_s: float, convention: Convention = MEGATRON
) -> Table:
    """Seconds of the four kinds, and their bytes under the layout, for each block."""
    shapes = shapes_of(model)
    kinds = shapes.kinds
    forward, backward, again = seconds_KPC.sum(axis=2).T.take(kinds, axis=1)
    parts = (seconds_KPC[:, 0] + seconds_KPC[:, 1]).T.take(kinds, axis=1)
    memory = block_bytes(shapes, layout, convention)
    dense, experts, state, activations, checkpoint = np.array(
        [
            memory.dense_params,
            memory.expert_params,
            memory.state,
            memory.activations,
            memory.checkpoint,
        ]
    ).take(kinds, axis=1)
    return Table(
        forward_s=forward,
        backward_s=backward,
        recompute_s=again,
        state_bytes=state,
        activation_bytes=activations,
        checkpoint_bytes=checkpoint,
        sync_bytes=dense * GRAD_BYTES,
        expert_sync_bytes=experts * GRAD_BYTES,
        params=dense + experts,
        fixed_bytes=memory.fixed,
        again_bytes=memory.again,
        send_s=send_s,
        parts=dict(zip(COMPONENTS, parts, strict=True)),
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
    return message_s(line, rows * model.hidden_size * element_bytes(layout))


def block_kinds(model: ModelSpec) -> NDArray[np.intp]:
    """[L + 2]: EMBEDDING, then DENSE or MOE for each layer, then HEAD."""
    return shapes_of(model).kinds
