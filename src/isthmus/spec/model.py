"""The shape of a decoder-only transformer, dense or Mixture-of-Experts per layer."""

import msgspec

from isthmus.spec.ranges import AtLeast0, AtLeast1, NonNegative, Positive


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes only; the tensors are built elsewhere, so the largest models can be planned for.

    In YAML a model is a preset's name, or a mapping with `preset:` and the fields that differ.
    """

    vocab_size: AtLeast1 = 4096
    """Tokens the model knows; the tokenizer may have fewer."""
    hidden_size: AtLeast1 = 128
    """Width of the residual stream."""
    num_layers: AtLeast1 = 4
    """Transformer layers, each attention and a feed-forward part."""
    num_heads: AtLeast1 = 4
    """Query heads."""
    num_kv_heads: AtLeast1 = 2
    """Key and value heads; divides `num_heads` (equal: plain multi-head attention)."""
    head_dim: AtLeast1 = 32
    """Width of a head; even, as rotary embedding turns pairs."""
    ffn_size: AtLeast1 = 344
    """Width of a dense layer's SwiGLU, and of each expert where `expert_ffn_size` is 0."""
    num_experts: AtLeast0 = 0
    """Experts in each MoE layer; 0: every layer is dense."""
    top_k: AtLeast1 = 2
    """Experts that each token is sent to."""
    expert_ffn_size: AtLeast0 = 0
    """Width of each expert's SwiGLU; 0: `ffn_size`."""
    first_moe_layer: AtLeast0 = 0
    """Layers before this one are dense."""
    moe_every: AtLeast1 = 1
    """Layer i is MoE if i >= first_moe_layer and (i - first_moe_layer) % moe_every == 0."""
    tied_head: bool = True
    """The output head is the embedding, transposed."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary embedding's wavelengths."""
    norm_eps: Positive = 1e-5
    """Added under RMSNorm's square root."""
    aux_loss_coef: NonNegative = 0.01
    """Weight of the load-balancing loss of MoE layers."""
    max_seq_len: AtLeast1 = 2048
    """Longest sequence the model is meant for; `data.seq_len` may not exceed it."""

    def is_moe_layer(self, index: int) -> bool:
        after = index - self.first_moe_layer
        return self.num_experts > 0 and after >= 0 and after % self.moe_every == 0
