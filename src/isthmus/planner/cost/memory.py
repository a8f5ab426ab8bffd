"""Bytes of a model's blocks on one chip: weights, gradients and optimizer state, and kept activations."""

from dataclasses import dataclass

from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

FIXED_BYTES = 3.0 * 2**30
"""Context, communication buffers, workspaces."""


@dataclass(frozen=True, slots=True)
class BlockParams:
    """Parameters of one block on one chip."""

    dense: float
    """Cut over tp, held by all replicas."""
    experts: float
    """Cut over ep and etp."""


def layer_params(model: ModelSpec, layout: Layout, moe: bool) -> BlockParams:
    """Of a dense or MoE layer. Matrices are cut over tp; norms, router and biases are whole."""
    hidden = model.hidden_size
    q_width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    cut = 2 * hidden * q_width + 2 * hidden * kv_width
    whole = 2 * hidden
    if model.qkv_bias:
        cut += q_width + 2 * kv_width
    if model.qk_norm != "none":
        whole += 2 * model.head_dim if model.qk_norm == "head" else q_width + kv_width
    if not moe:
        return BlockParams((cut + 3 * hidden * model.ffn_size) / layout.tp + whole, 0.0)
    cut += 3 * hidden * model.shared_ffn_size
    whole += (hidden + int(model.router_bias)) * model.num_experts
    experts = 3 * hidden * model.expert_width * model.num_experts / (layout.ep * layout.expert_tp)
    return BlockParams(cut / layout.tp + whole, experts)


def embedding_params(model: ModelSpec, layout: Layout) -> BlockParams:
    return BlockParams(model.vocab_size * model.hidden_size / layout.tp, 0.0)


def head_params(model: ModelSpec, layout: Layout) -> BlockParams:
    """Last norm, and the head's matrix unless it is the embedding's; over stages a tied head is a copy."""
    copy = not model.tied_head or layout.pp > 1
    matrix = model.vocab_size * model.hidden_size / layout.tp if copy else 0.0
    return BlockParams(matrix + model.hidden_size, 0.0)


def expert_replicas(layout: Layout) -> float:
    """Chips of a stage that hold the same experts."""
    return max(1.0, layout.tp * layout.cp * layout.dp / (layout.ep * layout.expert_tp))


def state_bytes(params: BlockParams, layout: Layout) -> float:
    """Mixed precision as Megatron-LM does it: weights 2 bytes, gradients 4, fp32 weights and two moments 12
    (arXiv 1910.02054, sec. 3.1, with fp32 gradients); shared out by ZeRO's stage."""
    weights, grads, states = (4, 4, 8) if layout.precision == "fp32" else (2, 4, 12)
    total = 0.0
    groups = ((params.dense, layout.dp * layout.cp), (params.experts, expert_replicas(layout)))
    for count, replicas in groups:
        shares = [1 / replicas if layout.sharding >= stage else 1.0 for stage in (3, 2, 1)]
        total += count * (weights * shares[0] + grads * shares[1] + states * shares[2])
    return total


def layer_activation_bytes(model: ModelSpec, layout: Layout, moe: bool) -> float:
    """Kept by one layer: 16 s b h for norms, residuals and projections' inputs, and 6 bytes for each of the
    feed-forward's columns (arXiv 2205.05198, eq. 2, without dropout and with fused attention)."""
    tokens = layout.micro_batch * layout.seq_len / layout.cp / layout.tp
    hidden = model.hidden_size
    width = 2 * (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    columns = model.shared_ffn_size + model.top_k * model.expert_width if moe else model.ffn_size
    routed = 4 * model.top_k * hidden if moe else 0
    return tokens * (12 * hidden + 2 * width + 6 * columns + routed)


def checkpoint_bytes(model: ModelSpec, layout: Layout) -> float:
    """A recomputed layer keeps its input."""
    return 2 * layout.micro_batch * layout.seq_len / layout.cp / layout.tp * model.hidden_size


def head_activation_bytes(model: ModelSpec, layout: Layout) -> float:
    """Logits in 16 bit and in fp32."""
    tokens = layout.micro_batch * layout.seq_len / layout.cp
    return tokens * (6 * model.vocab_size / layout.tp + 4 * model.hidden_size / layout.tp)
