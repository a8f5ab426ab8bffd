"""Published hybrids of state-space, attention and Mixture-of-Experts layers, as transformers of equal cost.

Such a model's layers hold one part each; a transformer layer here stands for one MoE layer and its share of
the others. Its attention has as many parameters as that share, and a core of as many FLOPs. Experts that work
in a latent space (LatentMoE) become fewer experts of full width: as many parameters, FLOPs and bytes sent.
"""

import re
from typing import NamedTuple

from isthmus.spec.model import ModelSpec


class Hybrid(NamedTuple):
    """Counts of layers by kind, then shapes."""

    mamba: int
    moe: int
    attention: int
    hidden: int
    vocab: int
    ssm_heads: int
    """Of width 64, with a state of 128 and 8 groups."""
    heads: int
    kv_heads: int
    """Of width 128."""
    experts: int
    top_k: int
    expert_width: int
    """Two matrices, with squared ReLU between."""
    latent: int
    """Width that the experts work in; 0: hidden."""
    shared: int


HYBRIDS: dict[str, Hybrid] = {
    "nemotron3nano": Hybrid(23, 23, 6, 2688, 131_072, 64, 32, 2, 128, 6, 1856, 0, 3712),
    "nemotron3super": Hybrid(40, 40, 8, 4096, 131_072, 128, 32, 2, 512, 22, 2688, 1024, 5376),
    "nemotron3ultra": Hybrid(48, 48, 12, 8192, 131_072, 256, 64, 2, 512, 22, 5120, 2048, 10_240),
}
"""NVIDIA-NeMo/Megatron-Bridge nemotron_h_provider.py and the models' config.json; of Super, what those leave
out is inferred from its 120B parameters."""
_SAME = {"nemotron35lightning": "nemotron3nano"}
_STATE, _GROUPS, _WIDTH, _HEAD = 128, 8, 64, 128
_SCAN_FLOPS = 60.0
"""Of a scan, for each element of state, as FLOPs of an attention core: the about 6 of its products (arXiv
2405.21060, sec. 6), and ten times that for its convolution, gates and states, which memory bounds."""


def find_hybrid(name: str) -> Hybrid | None:
    plain = re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia")
    plain = re.sub(r"(\d+b)?(a\d+b)?(bf16|base)?$", "", plain)
    return HYBRIDS.get(_SAME.get(plain, plain))


def as_transformer(hybrid: Hybrid, seq_len: int) -> tuple[ModelSpec, float]:
    """(model, FLOPs of its attention core relative to those of its heads over all of the sequence)"""
    h, inner = hybrid.hidden, hybrid.ssm_heads * _WIDTH
    scan = h * (2 * inner + 2 * _GROUPS * _STATE + hybrid.ssm_heads) + inner * h
    attention = 2 * h * _HEAD * (hybrid.heads + hybrid.kv_heads)
    mixing = (hybrid.mamba * scan + hybrid.attention * attention) / hybrid.moe
    heads = max(1, round(mixing / (2 * h * _HEAD)) - hybrid.kv_heads)
    core = hybrid.attention / hybrid.moe * hybrid.heads / heads
    scanned = _SCAN_FLOPS * inner * _STATE * hybrid.mamba / hybrid.moe
    core += scanned / (2 * seq_len * heads * _HEAD)
    part = (hybrid.latent or h) / h
    top_k = max(1, round(hybrid.top_k * part))
    active = 2 * hybrid.top_k * (hybrid.latent or h) * hybrid.expert_width
    model = ModelSpec(
        vocab_size=hybrid.vocab,
        hidden_size=h,
        num_layers=hybrid.moe,
        num_heads=heads,
        num_kv_heads=hybrid.kv_heads,
        head_dim=_HEAD,
        ffn_size=hybrid.expert_width,
        num_experts=round(hybrid.experts * part),
        top_k=top_k,
        expert_ffn_size=round(active / (top_k * 3 * h)),
        shared_ffn_size=round(2 * (hybrid.shared + hybrid.latent) / 3),
        tied_head=False,
        max_seq_len=262_144,
    )
    return model, core
