"""Model FLOPs of a token, as training reports count them."""

from isthmus.spec.model import ModelSpec


def matmul_params(model: ModelSpec) -> float:
    """Weights that one token is multiplied with: all but the embedding, the norms and the idle experts."""
    q_width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    attention = 2 * model.hidden_size * (q_width + kv_width)
    moe = len(model.moe_layers)
    dense = 3 * model.hidden_size * model.ffn_size * (model.num_layers - moe)
    routed = 3 * model.top_k * model.expert_width + 3 * model.shared_ffn_size + model.num_experts
    layers = model.num_layers * attention + dense + moe * model.hidden_size * routed
    return layers + model.vocab_size * model.hidden_size


def token_flops(model: ModelSpec, seq_len: int, recompute: bool = False, causal: bool = False) -> float:
    """6 for each weight, and 12 L s q_width for attention over the whole sequence (arXiv 2104.04473, eq. 3,
    without its recompute; with it, a third more); `causal`: over the half of it that is not masked."""
    core = (6 if causal else 12) * model.num_layers * seq_len * model.num_heads * model.head_dim
    layers = 6 * (matmul_params(model) - model.vocab_size * model.hidden_size) + core
    return layers * (4 / 3 if recompute else 1.0) + 6 * model.vocab_size * model.hidden_size
