"""Bytes of a model's blocks on one chip, under a layout and a training system's convention.

Activations generalise eqs. 1-6 of Korthikanti et al. (arXiv 2205.05198) to gated feed-forward parts, grouped
and latent attention, flash attention, experts and context parallelism. With T tokens of a micro-batch on a
tensor-parallel group, c bytes of an element, t = tp and t' = t with sequence parallelism, 1 without, a layer
keeps

    T [ (4 c h + 2 h dropout) / t' + c (q + k + v + out) / t + n c f / t + a s (c + (c + 1) dropout) / t ]

with n the tensors that the feed-forward part keeps, and the last term absent with flash attention. For GELU,
plain attention and c = 2 that is s b h (10 + 24 / t + 5 a s / (h t)), their eq. 2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from isthmus.planner.cost.convention import MEGATRON, Convention
from isthmus.planner.cost.shapes import DENSE, HEAD, MOE, Shapes
from isthmus.planner.cost.table import Floats
from isthmus.planner.layout import Layout

PREFETCHED = 2
"""Layers whose parameters are gathered at once under FSDP: the one that runs and the next."""


class ChipParams(NamedTuple):
    """Parameters of a block on one chip, before they are shared out over replicas."""

    dense: float
    experts: float


class State(NamedTuple):
    """Bytes of a block's state on one chip."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


class Kept(NamedTuple):
    """Bytes of one micro-batch in one block."""

    activations: float
    """From forward to backward, under the layout's recompute."""
    checkpoint: float
    """The same where the block is recomputed whole."""
    working: float
    """While its backward runs, beside what was kept: gradients, and what is computed again."""
    recomputed: float
    """`working` where the block is recomputed whole."""


@dataclass(frozen=True, slots=True)
class BlockBytes:
    """Arrays over kinds of block [4], in the order of `shapes`; `Shapes.kinds` as index gives all blocks."""

    state: Floats
    activations: Floats
    checkpoint: Floats
    dense_params: Floats
    """Of one chip."""
    expert_params: Floats
    fixed: float
    """Context, communication, the largest working set of a layer."""
    again: float
    """What that set is larger by where single layers are recomputed whole."""


def block_bytes(shapes: Shapes, layout: Layout, convention: Convention = MEGATRON) -> BlockBytes:
    """All that a table of costs needs. What the allocator wastes is in the activations."""
    params = [chip_params(shapes, layout, kind) for kind in range(4)]
    kept = [kept_bytes(shapes, layout, convention, kind) for kind in range(4)]
    waste = 1.0 + convention.fragmentation
    layers = [MOE] if not (shapes.kinds == DENSE).any() else [DENSE, MOE]
    recompute = layout.recompute == "full"
    again = max(kept[kind].recomputed for kind in layers)
    working = again if recompute else max(kept[kind].working for kind in layers)
    gathered = max(gathered_bytes(params[kind], layout, convention) for kind in layers)
    dense, experts = np.array(params).T
    activations = np.array([each.activations for each in kept])
    activations[HEAD] += gathered_bytes(params[HEAD], layout, convention)  # there while the loss is
    return BlockBytes(
        state=np.array([state_bytes(each, layout, convention).total for each in params]),
        activations=activations * waste,
        checkpoint=np.array([each.checkpoint for each in kept]) * waste,
        dense_params=dense,
        expert_params=experts,
        fixed=fixed_bytes(layout, convention) + (working + gathered) * waste,
        again=(again - working) * waste,
    )


def chip_params(shapes: Shapes, layout: Layout, kind: int) -> ChipParams:
    """Of one block. A tied head has a matrix of its own on a stage of its own."""
    block = shapes.params[kind]
    cut = block.cut / layout.tp
    if kind == HEAD and shapes.tied and layout.pp == 1:
        cut = 0.0
    return ChipParams(cut + block.whole, block.experts / (layout.ep * layout.expert_tp))


def expert_replicas(layout: Layout) -> float:
    """Chips of a stage that hold the same experts: the expert-data-parallel group."""
    return max(1.0, layout.tp * layout.cp * layout.dp / (layout.ep * layout.expert_tp))


def state_bytes(params: ChipParams, layout: Layout, convention: Convention) -> State:
    """Weights, gradients and optimizer; ZeRO stages 1, 2, 3 share out the optimizer, gradients too, weights
    too, over the replicas (arXiv 1910.02054, sec. 5), context-parallel chips being replicas of parameters."""
    weight, optimizer = convention.weight_bytes, convention.optimizer_bytes
    if layout.precision == "fp32" and weight < 4:
        weight, optimizer = 4.0, optimizer - 4  # no master copy beside them
    if layout.precision in ("fp8", "fp4") and layout.sharding < 3:
        weight += convention.narrow_bytes
    cast = 2 if convention.cast_weights and layout.precision != "fp32" and layout.sharding < 3 else 0
    each = State(weight + cast, convention.grad_bytes, optimizer)
    dense = _shared_out(params.dense, layout.dp * layout.cp, each, layout, convention)
    if not params.experts:
        return dense
    each = each._replace(weights=weight + cast * convention.cast_experts)
    experts = _shared_out(params.experts, expert_replicas(layout), each, layout, convention)
    return State(*(one + other for one, other in zip(dense, experts, strict=True)))


def _shared_out(count: float, replicas: float, each: State, layout: Layout, convention: Convention) -> State:
    """Of `count` parameters that so many chips hold, with `each` of one of them."""
    stage = layout.sharding
    weights = count * each.weights / (replicas if stage == 3 else 1)
    if stage == 3 and not convention.frees_gathered:
        weights += count * element_bytes(layout)
    reduced = convention.reduce_bytes if replicas > 1 else 0.0
    gradients = count * (each.gradients / (replicas if stage >= 2 else 1) + reduced)
    return State(weights, gradients, count * each.optimizer / (replicas if stage >= 1 else 1))


def gathered_bytes(params: ChipParams, layout: Layout, convention: Convention) -> float:
    """What one layer brings together while it runs under ZeRO stage 3: parameters of itself and of the next
    in the format of the products, and its gradient until that is shared out. Stage 2: the gradient alone."""
    count = params.dense + params.experts
    if layout.sharding == 3:
        gathered = PREFETCHED * element_bytes(layout) if convention.frees_gathered else 0.0
        return count * (gathered + convention.grad_bytes)
    return count * convention.grad_bytes if layout.sharding == 2 else 0.0


def element_bytes(layout: Layout) -> float:
    """Of an activation. Narrow formats keep 16 bits for all but the inputs of matrix products."""
    return 4.0 if layout.precision == "fp32" else 2.0


def operand_bytes(layout: Layout) -> float:
    """Of an element that a matrix product reads and keeps for the gradient of its weights."""
    return {"fp32": 4.0, "fp8": 1.0, "fp4": 0.5}.get(layout.precision, 2.0)


def kept_bytes(shapes: Shapes, layout: Layout, convention: Convention, kind: int) -> Kept:
    """Of one micro-batch in one block of this kind, before the allocator's waste."""
    if kind == HEAD:
        return _head_bytes(shapes, layout, convention)
    tokens, cut, element = _setting(layout, convention)
    if kind not in (DENSE, MOE):
        mask = convention.dropout * cut * shapes.hidden
        return Kept(mask + 8 * tokens, mask + 8 * tokens, 0.0, 0.0)
    residual = convention.residual_bytes or element
    operand = operand_bytes(layout)
    norm = residual + operand + convention.norm_bytes + convention.dropout
    norms = 2 * cut * shapes.hidden * norm
    attention = _attention_bytes(shapes, layout, convention)
    scores = _score_bytes(shapes, layout, convention)
    ffn, product, inside = _ffn_bytes(shapes, layout, convention, kind == MOE)
    everything = norms + attention + scores + ffn
    spared = 0.0
    if layout.recompute == "selective":
        spared = scores if scores else 2 * cut * shapes.hidden * operand + product
    elif layout.recompute == "full":
        spared = everything - cut * shapes.hidden * residual
    kept, checkpoint = everything - spared, cut * shapes.hidden * residual
    gradients = tokens * element * 2 * shapes.hidden + inside
    again = everything - checkpoint
    return Kept(
        checkpoint if layout.recompute == "full" else kept, checkpoint, gradients + spared, gradients + again
    )


def _setting(layout: Layout, convention: Convention) -> tuple[float, float, float]:
    """(tokens of a tensor-parallel group, tokens of a chip between its matrices, bytes of an element)"""
    tokens = layout.micro_batch * layout.seq_len / layout.cp
    return tokens, tokens / (layout.tp if convention.sequence_parallel else 1), element_bytes(layout)


def _attention_bytes(shapes: Shapes, layout: Layout, convention: Convention) -> float:
    """Queries, keys, values and output of the core. The output is the core's and the projection's, so a
    narrow format adds its own copy; what norms of queries and keys read is kept beside what they give."""
    tokens, cut, element = _setting(layout, convention)
    width = element * shapes.attention + (convention.residual_bytes or element) * shapes.qk_norm
    if operand_bytes(layout) < element:
        width += operand_bytes(layout) * shapes.core_out
    return tokens / layout.tp * width + cut * element * shapes.latent


def _score_bytes(shapes: Shapes, layout: Layout, convention: Convention) -> float:
    """a s^2 b / t times softmax, and with dropout its mask and its output (the 5 in eq. 1)."""
    if convention.flash:
        return 0.0
    element = element_bytes(layout)
    each = element + (element + 1 if convention.dropout else 0)
    return layout.micro_batch * layout.seq_len**2 / layout.cp * shapes.heads / layout.tp * each


def _ffn_bytes(
    shapes: Shapes, layout: Layout, convention: Convention, moe: bool
) -> tuple[float, float, float]:
    """(kept, of which the product that is cheap to compute again, gradients inside).

    A token that goes to k experts is there k times: dispatched (gathered over the chips that share an
    expert), through the expert, and once more before the results are summed with the router's weights; its
    logits and probabilities are fp32.
    """
    tokens, _, element = _setting(layout, convention)
    tensors = convention.gate_tensors if shapes.gated else convention.plain_tensors
    columns = tokens / layout.tp * (shapes.shared_ffn if moe else shapes.ffn)
    product = columns * operand_bytes(layout) if tensors > 1 + shapes.gated else 0.0
    kept = columns * element * (tensors - (product > 0)) + product
    inside = (3 if shapes.gated else 2) * columns * element
    if not moe:
        return kept, product, inside
    routed = _routed_bytes(shapes, layout, convention)
    return kept + routed.kept, product + routed.product, inside + routed.inside


class _Routed(NamedTuple):
    kept: float
    product: float
    inside: float


def _routed_bytes(shapes: Shapes, layout: Layout, convention: Convention) -> _Routed:
    tokens, cut, element = _setting(layout, convention)
    tensors = min(convention.expert_tensors, 3 if shapes.gated else 2)
    columns = tokens / layout.tp * shapes.top_k * shapes.expert_ffn
    product = columns * operand_bytes(layout) if tensors > 1 + shapes.gated else 0.0
    kept = columns * element * (tensors - (product > 0)) + product
    copy = cut * shapes.top_k * shapes.hidden * element
    sent = layout.expert_tp if convention.expert_copies else 0
    kept += copy * (sent + max(0, convention.expert_copies - 1)) + cut * 8 * shapes.experts
    if convention.router_copy and element < 4:
        kept += cut * 4 * shapes.hidden
    return _Routed(kept, product, (3 if shapes.gated else 2) * columns * element + copy)


def _head_bytes(shapes: Shapes, layout: Layout, convention: Convention) -> Kept:
    """Last norm, input of the output layer, and the logits with what the loss makes of them. A loss that
    makes the matrix's gradient in forward holds it twice in backward, as it is and scaled."""
    tokens, cut, element = _setting(layout, convention)
    residual = convention.residual_bytes or element
    kept = (
        cut * shapes.hidden * (residual + element)
        + tokens * convention.logit_bytes * shapes.vocab / layout.tp
    )
    if convention.loss_grads:
        matrix = shapes.vocab * shapes.hidden / layout.tp * convention.grad_bytes
        kept += 2 * matrix + tokens * shapes.hidden * element
    return Kept(kept, kept, 0.0, 0.0)


def fixed_bytes(layout: Layout, convention: Convention) -> float:
    """Of a process that holds no model yet: context, and buffers of each kind of group."""
    degrees = (layout.tp, layout.cp, layout.pp, layout.dp, layout.ep)
    groups = sum(degree > 1 for degree in degrees)
    tensor = convention.tensor_bytes if layout.tp > 1 else 0.0
    return convention.context_bytes + groups * convention.group_bytes + tensor
