"""Ideal seconds of each kind of block, by component: arithmetic on shapes, datasheet and network.

A pass over a block is a vector over `factors.COMPONENTS`. Tokens of a micro-batch on a chip: T = micro_batch
x seq_len / cp; matrices are cut over tp, and what lies between them over tp as well (sequence parallelism,
arXiv 2205.05198).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from isthmus.errors import InputError
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.network import Network, all_gather_s, all_to_all_s
from isthmus.planner.cost.shapes import DENSE, MOE
from isthmus.planner.cost.table import Floats
from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

LAUNCH_S = 4e-6
"""Of one kernel: what the host or the chip spends between two."""
KERNELS = 20
"""Of a layer's forward pass; backward has twice as many."""
STEP_S = 0.02
"""Fixed part of a step: data loading, norm of the gradients, logging."""
JITTER = 0.004
"""Of the step, for each doubling of the nodes that wait for each other."""


class Pass(NamedTuple):
    """Ideal seconds of one pass over a block, in the order of `factors.COMPONENTS`."""

    matmul: float = 0.0
    operands: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    scores: float = 0.0
    loss: float = 0.0
    cast: float = 0.0
    route: float = 0.0
    launch: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What all blocks share. Seconds per FLOP, per byte, and of one collective."""

    tokens: float
    """T: of a micro-batch on one tensor-parallel group."""
    flop_s: float
    """Of matrix products in the layout's precision."""
    wide_flop_s: float
    """Of attention and the head, which stay in 16 bit."""
    byte_s: float
    width: float
    """Bytes of a matrix product's operand."""
    wide: float
    """Bytes of what lies between products: 2, or 4 in fp32."""
    narrow: bool
    """Operands are converted to fewer than 16 bits."""
    gather_s: float
    """One all-gather or reduce-scatter of [T, hidden] over the tensor-parallel group."""
    layout: Layout
    fused: bool
    core: float = 1.0
    """Attention core's FLOPs relative to those of the model's heads over all of the sequence."""

    @classmethod
    def of(
        cls, model: ModelSpec, chip: ChipModel, network: Network, layout: Layout, fused: bool
    ) -> "Setting":
        tokens = layout.micro_batch * layout.seq_len / layout.cp
        line = network.line(layout.tp, 1)
        wide = "fp32" if layout.precision == "fp32" else "bf16"
        return cls(
            tokens=tokens,
            flop_s=1e-12 / _rate(chip, layout.precision),
            wide_flop_s=1e-12 / _rate(chip, wide),
            byte_s=1e-9 / chip.memory_gb_s,
            width={"fp32": 4, "fp8": 1, "fp4": 0.5}.get(layout.precision, 2),
            wide=element_bytes(layout),
            narrow=layout.precision in ("fp8", "fp4"),
            gather_s=all_gather_s(line, layout.tp, tokens * model.hidden_size * element_bytes(layout)),
            layout=layout,
            fused=fused,
        )


def _rate(chip: ChipModel, precision: str) -> float:
    """10^12 FLOP/s."""
    rate = chip.peak_tflops(precision)
    if not rate:
        raise InputError(
            f"the {precision} rate of {chip.name} is not known",
            where=f"chips.{chip.name}",
            hint=f"train in another precision, or give {precision}_tflops under `chips` in fleet.yaml",
        )
    return rate


def element_bytes(layout: Layout) -> int:
    """Of activations between products, and of what is sent of them."""
    return 4 if layout.precision == "fp32" else 2


def _product(setting: Setting, rows: float, inner: float, columns: float) -> tuple[float, float]:
    """(seconds of the FLOPs, seconds of the operands' bytes) of [rows, inner] @ [inner, columns]."""
    traffic = (rows * inner + inner * columns) * setting.width + rows * columns * setting.wide
    return 2 * rows * inner * columns * setting.flop_s, traffic * setting.byte_s


def _attention(model: ModelSpec, setting: Setting) -> Pass:
    """Forward pass of norm, projections and core. The core's FLOPs: 4 T s q_width, half of it by causality
    (arXiv 2307.08691, sec. 4); a little slower for short heads."""
    tp, tokens = setting.layout.tp, setting.tokens
    hidden, seq_len = model.hidden_size, setting.layout.seq_len
    q_width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    qkv = _product(setting, tokens, hidden, (q_width + 2 * kv_width) / tp)
    out = _product(setting, tokens, q_width / tp, hidden)
    core = setting.core * 4 * tokens * seq_len * q_width / tp * (0.9 + 12.8 / model.head_dim)
    shared = tokens / tp
    traffic = shared * (5 * hidden + 2 * (q_width + kv_width))
    scores = 0.0
    if setting.fused:
        core /= 2
    else:
        scores = 5.5 * tokens * seq_len * model.num_heads / tp * setting.wide * setting.byte_s
    return Pass(
        matmul=qkv[0] + out[0],
        operands=qkv[1] + out[1],
        attention=core * setting.wide_flop_s,
        elementwise=traffic * setting.wide * setting.byte_s,
        scores=scores,
        cast=4 * shared * (hidden + q_width) * setting.byte_s if setting.narrow else 0.0,
        launch=KERNELS / 2 * LAUNCH_S,
        tensor=2 * setting.gather_s,
    )


def _feed_forward(model: ModelSpec, setting: Setting, width: float) -> Pass:
    """Forward pass of norm and SwiGLU of `width`."""
    tp, tokens, hidden = setting.layout.tp, setting.tokens, model.hidden_size
    up = _product(setting, tokens, hidden, 2 * width / tp)
    down = _product(setting, tokens, width / tp, hidden)
    shared = tokens / tp
    return Pass(
        matmul=up[0] + down[0],
        operands=up[1] + down[1],
        elementwise=shared * (5 * hidden + 3 * width) * setting.wide * setting.byte_s,
        cast=4 * shared * (hidden + width) * setting.byte_s if setting.narrow else 0.0,
        launch=KERNELS / 2 * LAUNCH_S,
        tensor=2 * setting.gather_s,
    )


def _experts(model: ModelSpec, setting: Setting, network: Network) -> Pass:
    """Forward pass of router, routed experts and the exchange of tokens, with even load.

    Each chip holds T / tp tokens and sends top_k copies of each (over the network between nodes only one to
    each node, as the libraries do it that are made for this); an expert sees T top_k ep etp / (tp E) rows.
    """
    layout, tokens, hidden = setting.layout, setting.tokens, model.hidden_size
    copies = tokens / layout.tp * model.top_k
    width = model.expert_width / layout.expert_tp
    per_chip = max(1.0, model.num_experts / layout.ep)
    rows = copies * layout.expert_tp / per_chip
    up = _product(setting, rows, hidden, 2 * width)
    down = _product(setting, rows, width, hidden)
    router = _product(setting, tokens / layout.tp, hidden, model.num_experts)
    return Pass(
        matmul=per_chip * (up[0] + down[0]) + router[0],
        operands=per_chip * (up[1] + down[1]) + router[1],
        elementwise=copies * 3 * model.expert_width * setting.wide * setting.byte_s,
        cast=4 * copies * (hidden + model.expert_width) * setting.byte_s if setting.narrow else 0.0,
        route=5 * copies * hidden * setting.wide * setting.byte_s,
        launch=KERNELS * LAUNCH_S,
        expert=2 * _exchange_s(model, layout, network, tokens / layout.tp),
    )


def _exchange_s(model: ModelSpec, layout: Layout, network: Network, tokens: float) -> float:
    """One way of the exchange between experts: all-to-all over ep, and where each expert is cut, an
    all-gather over its chips."""
    row = model.hidden_size * element_bytes(layout)
    stride = layout.expert_tp
    line = network.line(layout.ep, stride)
    copies = float(model.top_k)
    domains = layout.ep * stride / network.domain
    if domains > 1:
        copies = min(copies, domains * (1 - (1 - 1 / domains) ** model.top_k))
    cut = layout.expert_tp
    gathered = all_gather_s(network.line(cut, 1), cut, tokens * model.top_k * row * cut)
    return all_to_all_s(line, layout.ep, tokens * copies * row) + gathered


def _head(model: ModelSpec, setting: Setting) -> Pass:
    """Forward pass of the last norm, the output head in 16 bit and the loss in fp32."""
    tp, tokens, hidden = setting.layout.tp, setting.tokens, model.hidden_size
    columns = model.vocab_size / tp
    operands = (tokens * hidden + hidden * columns + tokens * columns) * setting.wide
    return Pass(
        matmul=2 * tokens * hidden * columns * setting.wide_flop_s,
        operands=operands * setting.byte_s,
        elementwise=tokens / tp * 2 * hidden * setting.wide * setting.byte_s,
        loss=tokens * columns * 8 * setting.byte_s,
        launch=KERNELS / 2 * LAUNCH_S,
        tensor=setting.gather_s,
    )


def _embedding(model: ModelSpec, setting: Setting) -> Pass:
    tp, tokens, hidden = setting.layout.tp, setting.tokens, model.hidden_size
    return Pass(
        elementwise=tokens / tp * 4 * hidden * setting.wide * setting.byte_s,
        launch=KERNELS / 4 * LAUNCH_S,
        tensor=setting.gather_s if tp > 1 else 0.0,
    )


def _key_value_s(model: ModelSpec, layout: Layout, network: Network) -> float:
    """Keys and values of the whole sequence, gathered over the context-parallel group."""
    width = 2 * model.num_kv_heads * model.head_dim / layout.tp
    num_bytes = layout.micro_batch * layout.seq_len * width * element_bytes(layout)
    return all_gather_s(network.line(layout.cp, layout.tp), layout.cp, num_bytes)


BACKWARD = np.array([2.0, 2.0, 2.5, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 1.0, 2.0, 1.0])
"""Of the forward pass, by component: each product has two in backward; flash attention five instead of two
(arXiv 2307.08691); keys and values go around again with their gradients."""
SELECTIVE = np.array([0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0])
"""Computed again: the cheap element-wise parts, with fused attention."""
SELECTIVE_CORE = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0])
"""Without it: the attention core and its scores."""


def ideal_passes(model: ModelSpec, network: Network, setting: Setting) -> Floats:
    """[kind, pass, component]: ideal seconds of a micro-batch; kinds EMBEDDING, DENSE, MOE, HEAD; passes
    forward, backward, and what is computed again under the layout's recompute. A layer is dense or MoE."""
    layout = setting.layout
    attention = _attention(model, setting)._replace(context=_key_value_s(model, layout, network))
    dense = _feed_forward(model, setting, model.ffn_size)
    shared, experts = Pass(), Pass()
    if model.num_experts:
        shared = _feed_forward(model, setting, model.shared_ffn_size)
        experts = _experts(model, setting, network)
    nothing = Pass()
    parts = np.array(
        [
            [_embedding(model, setting), attention, attention, _head(model, setting)],
            [nothing, dense, shared, nothing],
            [nothing, nothing, experts, nothing],
        ]
    )
    kinds = parts.sum(axis=0)
    again = np.zeros_like(kinds)
    if layout.recompute != "none":
        selective = SELECTIVE if setting.fused else SELECTIVE_CORE
        layers = slice(DENSE, MOE + 1)
        again[layers] = kinds[layers] * (1.0 if layout.recompute == "full" else selective)
    return np.stack([kinds, kinds * BACKWARD, again], axis=1)
