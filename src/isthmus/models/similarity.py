"""How alike a layer's experts still are: what shows whether an upcycled model grows apart."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isthmus.models.moe import MoE
from isthmus.models.transformer import Transformer


@torch.no_grad()
def expert_similarity(model: Transformer) -> list[float]:
    """Mean cosine over all pairs of experts, by MoE layer (Skywork-MoE, arXiv 2406.06563, section 3); 1 where
    all are equal, or there is only one.
    """
    return [_similarity(module) for module in model.modules() if isinstance(module, MoE)]


def _similarity(layer: MoE) -> float:
    """One pass, no matrix of pairs: for unit vectors u_e, |sum_e u_e|^2 = E + the cosines of all pairs."""
    count = len(layer.experts)
    if count < 2:
        return 1.0
    total: list[Tensor] = []
    for expert in layer.experts:
        parts = list(expert.parameters())
        scale = 1.0 / max(float(_square(parts)), 1e-60) ** 0.5
        total = total or [torch.zeros_like(part, dtype=torch.float32) for part in parts]
        for sum_, part in zip(total, parts, strict=True):
            sum_.add_(part, alpha=scale)
    return (float(_square(total)) - count) / (count * (count - 1))


def _square(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.double().square().sum() for part in parts]).sum()
