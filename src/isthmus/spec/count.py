"""Parameters of a model by name and shape, without building it. `models.Transformer` uses the same names."""

import math
from collections.abc import Iterator

from isthmus.spec.model import ModelSpec

Shape = tuple[int, ...]


def param_shapes(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of every tensor, in the model's order; weights are [out, in], of experts [in, out]."""
    yield "embed.weight", (spec.vocab_size, spec.hidden_size)
    for layer in range(spec.num_layers):
        for name, shape in _layer_shapes(spec, layer, spec.num_experts):
            yield f"layers.{layer}.{name}", shape
    yield "norm.weight", (spec.hidden_size,)
    if not spec.tied_head:
        yield "head.weight", (spec.vocab_size, spec.hidden_size)


def _layer_shapes(spec: ModelSpec, layer: int, experts: int) -> Iterator[tuple[str, Shape]]:
    """With the first `experts` of its experts."""
    hidden = spec.hidden_size
    q_width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    yield "attn_norm.weight", (hidden,)
    for name, width in (("wq", q_width), ("wk", kv_width), ("wv", kv_width)):
        yield f"attn.{name}.weight", (width, hidden)
        if spec.qkv_bias:
            yield f"attn.{name}.bias", (width,)
    yield "attn.wo.weight", (hidden, q_width)
    if spec.qk_norm != "none":
        by_head = spec.qk_norm == "head"
        yield "attn.q_norm.weight", (spec.head_dim if by_head else q_width,)
        yield "attn.k_norm.weight", (spec.head_dim if by_head else kv_width,)
    yield "ffn_norm.weight", (hidden,)
    if not spec.is_moe_layer(layer):
        yield "ffn.gate_up.weight", (2 * spec.ffn_size, hidden)
        yield "ffn.down.weight", (hidden, spec.ffn_size)
        return
    width = spec.expert_width
    yield "moe.router.weight", (spec.num_experts, hidden)
    if spec.router_bias:
        yield "moe.router.bias", (spec.num_experts,)
    for expert in range(experts):
        yield f"moe.experts.{expert}.gate_up", (hidden, 2 * width)
        yield f"moe.experts.{expert}.down", (width, hidden)
    if spec.shared_ffn_size:
        yield "moe.shared.gate_up.weight", (2 * spec.shared_ffn_size, hidden)
        yield "moe.shared.down.weight", (hidden, spec.shared_ffn_size)


def count_params(spec: ModelSpec) -> int:
    """Of all tensors of `param_shapes`; layers of one kind are alike, and so are a layer's experts."""
    moe = spec.moe_layers
    dense = sorted(set(range(spec.num_layers)) - set(moe))
    ends = spec.hidden_size + (1 if spec.tied_head else 2) * spec.vocab_size * spec.hidden_size
    experts = len(moe) * spec.num_experts * 3 * spec.hidden_size * spec.expert_width
    return ends + experts + sum(len(alike) * _own_params(spec, alike[0]) for alike in (dense, moe) if alike)


def _own_params(spec: ModelSpec, layer: int) -> int:
    """Of one layer, without its routed experts."""
    return sum(math.prod(shape) for _, shape in _layer_shapes(spec, layer, 0))


def count_active_params(spec: ModelSpec) -> int:
    """Parameters one token passes through: all but the experts that its router does not choose."""
    idle_experts = len(spec.moe_layers) * max(0, spec.num_experts - spec.top_k)
    return count_params(spec) - idle_experts * 3 * spec.hidden_size * spec.expert_width
