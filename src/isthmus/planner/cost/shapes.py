"""A model as memory sees it: parameters and widths of each kind of block, before any cutting."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from isthmus.planner.models.known import KnownModel, LatentAttention
from isthmus.spec.model import ModelSpec

EMBEDDING, DENSE, MOE, HEAD = range(4)
"""Kinds of block."""


@dataclass(frozen=True, slots=True)
class Params:
    """Of one block, of the whole model."""

    cut: float
    """Of matrices that tensor parallelism cuts."""
    whole: float
    """Norms, router, projections to latent vectors: the same on all its chips."""
    experts: float = 0.0
    """Of routed experts."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Widths are elements of one token."""

    hidden: int
    vocab: int
    heads: int
    attention: float
    """Queries, keys, values and the core's output, as the attention core has them."""
    core_out: float
    """The core's output alone."""
    qk_norm: float
    """Queries and keys, where they are normed."""
    latent: float
    """Compressed queries and keys, before and after their norms (multi-head latent attention)."""
    ffn: int
    gated: bool
    experts: int
    top_k: int
    expert_ffn: int
    shared_ffn: int
    params: tuple[Params, Params, Params, Params]
    """By kind, with a head of its own."""
    tied: bool
    kinds: NDArray[np.intp]
    """[L + 2]: EMBEDDING, then DENSE or MOE for each layer, then HEAD."""


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A model as a key: it holds lists, so it is compared by identity."""

    model: ModelSpec | KnownModel

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.model is self.model


def shapes_of(model: ModelSpec | KnownModel) -> Shapes:
    """Worked out once for a model: the search asks for its bytes thousands of times."""
    return _shapes_of(_Same(model))


@lru_cache(maxsize=64)
def _shapes_of(same: _Same) -> Shapes:
    model = same.model
    known = model if isinstance(model, KnownModel) else KnownModel(name="", model=model, params=0)
    spec = known.model
    return Shapes(
        hidden=spec.hidden_size,
        vocab=spec.vocab_size,
        heads=spec.num_heads,
        attention=_attention_width(spec, known.latent),
        core_out=spec.num_heads * (known.latent.value_dim if known.latent else spec.head_dim),
        qk_norm=(spec.num_heads + spec.num_kv_heads) * spec.head_dim * float(spec.qk_norm != "none"),
        latent=2.0 * (known.latent.q_rank + known.latent.kv_rank) if known.latent else 0.0,
        ffn=spec.ffn_size,
        gated=known.ffn_matrices == 3,
        experts=spec.num_experts,
        top_k=min(spec.top_k, max(1, spec.num_experts)),
        expert_ffn=spec.expert_width,
        shared_ffn=spec.shared_ffn_size,
        params=(_embedding(known), _layer(known, moe=False), _layer(known, moe=True), _head(known)),
        tied=spec.tied_head,
        kinds=_kinds(spec),
    )


def _kinds(spec: ModelSpec) -> NDArray[np.intp]:
    kinds = np.full(spec.num_layers + 2, DENSE, dtype=np.intp)
    kinds[[layer + 1 for layer in spec.moe_layers]] = MOE
    kinds[0], kinds[-1] = EMBEDDING, HEAD
    return kinds


def _attention_width(spec: ModelSpec, latent: LatentAttention | None) -> float:
    if latent is not None:
        return spec.num_heads * 2.0 * (latent.nope_dim + latent.rope_dim + latent.value_dim)
    return 2.0 * (spec.num_heads + spec.num_kv_heads) * spec.head_dim


def _embedding(known: KnownModel) -> Params:
    spec = known.model
    width = known.embed_dim or spec.hidden_size
    positions = spec.max_seq_len * spec.hidden_size if known.positions == "learned" else 0
    lead_in = known.embed_dim * spec.hidden_size
    return Params(spec.vocab_size * width, positions + lead_in)


def _head(known: KnownModel) -> Params:
    spec = known.model
    width = known.embed_dim or spec.hidden_size
    return Params(spec.vocab_size * width, spec.hidden_size + known.embed_dim * spec.hidden_size)


def _layer(known: KnownModel, *, moe: bool) -> Params:
    spec, hidden = known.model, known.model.hidden_size
    cut, whole = _attention_params(known)
    biases = known.linear_bias
    if not moe:
        inner = known.ffn_matrices - 1
        cut += known.ffn_matrices * hidden * spec.ffn_size + biases * inner * spec.ffn_size
        return Params(cut, whole + biases * hidden)
    if not spec.num_experts:
        return Params(0.0, 0.0)
    cut += known.ffn_matrices * hidden * spec.shared_ffn_size
    whole += (hidden + spec.router_bias) * spec.num_experts
    return Params(cut, whole, known.ffn_matrices * hidden * spec.expert_width * spec.num_experts)


def _attention_params(known: KnownModel) -> tuple[float, float]:
    """(cut, whole) of attention and of the layer's two norms."""
    spec, latent, hidden = known.model, known.latent, known.model.hidden_size
    whole = 2.0 * hidden
    if latent is not None:
        down = hidden * (latent.q_rank + latent.kv_rank + latent.rope_dim)
        return latent.params(hidden, spec.num_heads) - down, whole + down
    q_width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    cut = 2.0 * hidden * (q_width + kv_width)
    if spec.qkv_bias or known.linear_bias:
        cut += q_width + 2 * kv_width
    if known.linear_bias:
        whole += 3 * hidden  # of the output projection, and the norms'
    if spec.qk_norm != "none":
        whole += 2 * spec.head_dim if spec.qk_norm == "head" else q_width + kv_width
    return cut, whole
