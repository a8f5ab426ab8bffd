"""The shape of a decoder-only transformer, dense or Mixture-of-Experts per layer."""

import msgspec


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes only; `models` builds the tensors, `planner` counts them.

    In YAML a model is a preset's name, or a mapping with `preset:` and the fields that differ.
    """

    vocab_size: int = 4096
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    ffn_size: int = 344
    """Width of a dense layer's SwiGLU, and of each expert where `expert_ffn_size` is 0."""
    num_experts: int = 0
    """0: every layer is dense."""
    top_k: int = 2
    expert_ffn_size: int = 0
    first_moe_layer: int = 0
    moe_every: int = 1
    """Layer i is MoE if i >= first_moe_layer and (i - first_moe_layer) % moe_every == 0."""
    tied_head: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    aux_loss_coef: float = 0.01
    max_seq_len: int = 2048

    def is_moe_layer(self, index: int) -> bool:
        after = index - self.first_moe_layer
        return self.num_experts > 0 and after >= 0 and after % self.moe_every == 0
