"""Grouped-query attention that stays inside documents, with a key-value cache for generation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.models.layers import Linear, RMSNorm, rope
from isthmus.models.short_attention import short_attention, suits
from isthmus.spec.model import ModelSpec


@dataclass(frozen=True)
class Borders:
    """Which rows of a batch hold one document (plain causal attention) and which need a mask."""

    whole: Tensor
    """Indices of the rows with a single document."""
    split: Tensor
    """Indices of the rows with several."""
    mask: Tensor
    """Added to the scores of the split rows: [len(split), 1, T, T], 0 or -inf."""


def find_borders(doc_ids_BT: Tensor, dtype: torch.dtype) -> Borders | None:
    """None if every row holds one document, which is the fast path."""
    crosses = (doc_ids_BT[:, 1:] != doc_ids_BT[:, :-1]).any(-1)
    if not bool(crosses.any()):
        return None
    split = crosses.nonzero().flatten()
    ids = doc_ids_BT.index_select(0, split)
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril_()
    allowed = (ids[:, :, None] == ids[:, None, :]).logical_and_(causal)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=ids.device).masked_fill_(~allowed, float("-inf"))
    return Borders((~crosses).nonzero().flatten(), split, mask[:, None])


@dataclass
class LayerCache:
    """Keys and values of one layer, [B, max_tokens, kv_heads, head_dim], filled up to the cache's length."""

    keys: Tensor
    values: Tensor


@dataclass
class KVCache:
    layers: list[LayerCache]
    length: int = 0
    """Tokens that are in the cache."""

    @property
    def capacity(self) -> int:
        return self.layers[0].keys.shape[1]


@dataclass(frozen=True)
class Step:
    """What all layers of one forward pass share."""

    cos: Tensor
    sin: Tensor
    dtype: torch.dtype
    borders: Borders | None = None
    cache: KVCache | None = None


class Attention(nn.Module):
    """Causal softmax attention; query heads share `num_kv_heads` keys and values (arXiv 2305.13245)."""

    def __init__(self, spec: ModelSpec, layer: int):
        super().__init__()
        self.head_dim = spec.head_dim
        self.layer = layer
        self.grouped = spec.num_heads != spec.num_kv_heads
        q_width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.wq = Linear(spec.hidden_size, q_width, spec.qkv_bias)
        self.wk = Linear(spec.hidden_size, kv_width, spec.qkv_bias)
        self.wv = Linear(spec.hidden_size, kv_width, spec.qkv_bias)
        self.wo = Linear(q_width, spec.hidden_size)
        self.qk_norm = spec.qk_norm
        if spec.qk_norm != "none":
            by_head = spec.qk_norm == "head"
            self.q_norm = RMSNorm(spec.head_dim if by_head else q_width, spec.norm_eps)
            self.k_norm = RMSNorm(spec.head_dim if by_head else kv_width, spec.norm_eps)

    def forward(self, x_BTD: Tensor, step: Step) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q, k, v = self.wq(x_BTD), self.wk(x_BTD), self.wv(x_BTD).view(heads)
        if self.qk_norm == "head":
            q, k = q.view(heads), k.view(heads)
        if self.qk_norm != "none":
            q, k = self.q_norm(q.float(), step.dtype), self.k_norm(k.float(), step.dtype)
        q = rope(q.view(heads), step.cos, step.sin)
        k = rope(k.view(heads), step.cos, step.sin)
        if step.cache is None:
            mixed = self._within(q, k, v, step.borders)
        else:
            mixed = self._cached(q, k, v, step.cache)
        return self.wo(mixed.flatten(2))

    def _within(self, q: Tensor, k: Tensor, v: Tensor, borders: Borders | None) -> Tensor:
        if borders is None:
            return self._attend(q, k, v, causal=True)
        if borders.whole.numel() == 0:
            return self._attend(q, k, v, mask=borders.mask)
        parts = []
        for rows, mask in ((borders.whole, None), (borders.split, borders.mask)):
            inputs = (part.index_select(0, rows) for part in (q, k, v))
            parts.append(self._attend(*inputs, mask=mask, causal=mask is None))
        back = torch.argsort(torch.cat([borders.whole, borders.split]))
        return torch.cat(parts).index_select(0, back)

    def _cached(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """The whole prompt into an empty cache, or one more token."""
        kept, start, end = cache.layers[self.layer], cache.length, cache.length + q.shape[1]
        assert start == 0 or q.shape[1] == 1, "a filled cache takes one token at a time"
        kept.keys[:, start:end] = k
        kept.values[:, start:end] = v
        return self._attend(q, kept.keys[:, :end], kept.values[:, :end], causal=start == 0)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """[B, T, heads, head_dim] in and out."""
        if suits(q, k):
            return short_attention(q, k, v, mask)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped
        ).transpose(1, 2)
