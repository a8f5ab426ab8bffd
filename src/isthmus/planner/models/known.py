"""A published model: its shapes as ModelSpec, and beside them what ModelSpec cannot say."""

from typing import Literal

import msgspec

from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec


class LatentAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Multi-head latent attention (arXiv 2405.04434, sec. 2.1): keys and values through a narrow vector."""

    q_rank: int
    """Width of the compressed query; 0: queries are projected at once."""
    kv_rank: int
    """Width of the compressed key and value, the part that is cached."""
    nope_dim: int
    """Of each head's query and key, without rotary embedding."""
    rope_dim: int
    """With rotary embedding; one key of this width serves all heads."""
    value_dim: int

    def params(self, hidden_size: int, num_heads: int) -> int:
        """Matrices of one layer's attention."""
        query_width = num_heads * (self.nope_dim + self.rope_dim)
        query = self.q_rank * (hidden_size + query_width) if self.q_rank else hidden_size * query_width
        key_value = hidden_size * (self.kv_rank + self.rope_dim)
        key_value += self.kv_rank * num_heads * (self.nope_dim + self.value_dim)
        return query + key_value + num_heads * self.value_dim * hidden_size


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """`model` alone gives the cost of most; the other fields say where it would be wrong."""

    name: str
    model: ModelSpec
    """With `latent`: num_kv_heads = num_heads and head_dim = nope_dim, plain attention of as many heads."""
    params: float
    """As its makers state it, or as its name rounds it."""
    source: str = ""
    """Where the dimensions can be read: a file of a repository, a paper; 'believed' marks the rest."""
    aliases: list[str] = []
    ffn_matrices: Literal[2, 3] = 3
    """3: SwiGLU (gate, up, down) of `ffn_size`; 2: up and down with GELU, ReLU or squared ReLU between."""
    positions: Literal["rope", "learned", "alibi", "none"] = "rope"
    """learned: a further [max_seq_len, hidden_size] table beside the embedding."""
    linear_bias: bool = False
    """Every matrix has a bias."""
    embed_dim: int = 0
    """Width of the embedding where it is not hidden_size (OPT-350M): a matrix leads in and one out."""
    latent: LatentAttention | None = None
    window: int = 0
    """Tokens that a layer with a sliding window attends to; 0: all attend to all."""
    window_every: int = 1
    """Every how many layers one has the window."""
    predict_layers: int = 0
    """Layers of multi-token prediction beside num_layers; not counted in `params`."""

    @property
    def num_params(self) -> int:
        """ModelSpec's count, corrected for what it cannot say; biases and norms beyond its own left out."""
        spec = self.model
        count = count_params(spec) + self._ffn_difference() + self._attention_difference()
        if self.positions == "learned":
            count += spec.max_seq_len * spec.hidden_size
        if self.embed_dim:
            count += (self.embed_dim - spec.hidden_size) * spec.vocab_size
            count += 2 * self.embed_dim * spec.hidden_size
        return count

    def _ffn_difference(self) -> int:
        spec, moe = self.model, len(self.model.moe_layers)
        widths = (spec.num_layers - moe) * spec.ffn_size
        widths += moe * (spec.num_experts * spec.expert_width + spec.shared_ffn_size)
        return (self.ffn_matrices - 3) * spec.hidden_size * widths

    def _attention_difference(self) -> int:
        if self.latent is None:
            return 0
        spec = self.model
        plain = 2 * spec.hidden_size * spec.head_dim * (spec.num_heads + spec.num_kv_heads)
        return spec.num_layers * (self.latent.params(spec.hidden_size, spec.num_heads) - plain)
