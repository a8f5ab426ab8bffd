"""The shape of a decoder-only transformer, dense or Mixture-of-Experts per layer."""

from typing import Literal

import msgspec

from isthmus.spec.ranges import AtLeast0, AtLeast1, NonNegative, Positive


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the rotary embedding is stretched for contexts longer than it was trained for."""

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    """linear: all wavelengths by `factor` (arXiv 2306.15595); llama3: the long ones alone; yarn: the long
    ones, and the scores are tempered (arXiv 2309.00071)."""
    factor: Positive = 1.0
    """By how much the context grows."""
    original_max_seq_len: AtLeast1 = 8192
    """llama3 and yarn: the context that the model was first trained for."""
    low_freq_factor: Positive = 1.0
    """llama3: wavelengths above original_max_seq_len / this are stretched in full."""
    high_freq_factor: Positive = 4.0
    """llama3: wavelengths below original_max_seq_len / this are left as they are."""
    beta_fast: Positive = 32.0
    """yarn: dimensions that turn more often than this in the original context are left as they are."""
    beta_slow: Positive = 1.0
    """yarn: dimensions that turn less often than this are stretched in full."""
    attention_factor: NonNegative = 0.0
    """yarn: factor on queries and keys; 0: 0.1 ln(factor) + 1."""


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
    dense_layers: list[AtLeast0] = []
    """Layers that are dense whatever the two rules above say."""
    shared_ffn_size: AtLeast0 = 0
    """Width of the shared expert, a SwiGLU that every token passes beside its routed experts; 0: none."""
    router_score: Literal["softmax", "sigmoid"] = "softmax"
    """What turns the router's logits into scores, over all experts."""
    renormalize: bool = True
    """The weights of a token's experts sum to one; otherwise they are its scores as they are."""
    gate_norm: NonNegative = 0.0
    """Lambda of gating-logit normalisation: logits become lambda (z - mean) / std over the experts
    (arXiv 2406.06563, eq. 6); 0: none."""
    route_scale: Positive = 1.0
    """Factor on the routed experts' output."""
    router_bias: bool = False
    """The router has a bias that counts in choosing experts but not in weighting them, moved against each
    expert's load (arXiv 2408.15664; see train.balance.bias_rate)."""
    qk_norm: Literal["none", "head", "all"] = "none"
    """RMSNorm of queries and keys before the rotary embedding: each head by itself (Qwen3), or all heads as
    one vector (OLMoE)."""
    qkv_bias: bool = False
    """Queries, keys and values have a bias (Qwen2)."""
    tied_head: bool = True
    """The output head is the embedding, transposed."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary embedding's wavelengths."""
    rope_scaling: RopeScaling = RopeScaling()
    """Stretching of the rotary embedding."""
    norm_eps: Positive = 1e-5
    """Added under RMSNorm's square root."""
    max_seq_len: AtLeast1 = 2048
    """Longest sequence the model is meant for; `data.seq_len` may not exceed it."""

    @property
    def expert_width(self) -> int:
        """Width of each routed expert's SwiGLU."""
        return self.expert_ffn_size or self.ffn_size

    @property
    def moe_layers(self) -> list[int]:
        return [layer for layer in range(self.num_layers) if self.is_moe_layer(layer)]

    def is_moe_layer(self, index: int) -> bool:
        after = index - self.first_moe_layer
        return (
            self.num_experts > 0
            and after >= 0
            and after % self.moe_every == 0
            and index not in self.dense_layers
        )
