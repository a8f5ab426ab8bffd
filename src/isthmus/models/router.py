"""Top-k router: which experts each token visits, with what weight, and the loss that balances them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Choice:
    expert_NK: Tensor
    """Experts of each token, the best first (int64)."""
    weight_NK: Tensor
    """Their weights, fp32, summing to one over K."""
    aux_loss: Tensor
    """Scalar, before any coefficient."""


def balance_loss(probs_NE: Tensor) -> Tensor:
    """sum_j (1/n - mean_i g_ij)^2: mean gate probabilities alone (Skywork-MoE, arXiv 2406.06563, eq. 4)."""
    mean_E = probs_NE.mean(0)
    return (mean_E - 1.0 / mean_E.shape[0]).square().sum()


def top_k(logits_NE: Tensor, k: int) -> Tensor:
    """Indices of the k largest, best first; equal ones by their index, whatever the thread count.

    `torch.topk` promises no order among equals; a stable sort does.
    """
    return torch.sort(logits_NE, dim=-1, descending=True, stable=True).indices[:, :k]


class Router(nn.Module):
    """Softmax over all experts in fp32, the top k renormalised (Skywork-MoE, eq. 1-2). `weight` is [E, D]."""

    def __init__(self, hidden_size: int, num_experts: int, k: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.k = k

    def forward(self, x_ND: Tensor) -> Choice:
        logits_NE = functional.linear(x_ND.float(), self.weight)
        expert_NK = top_k(logits_NE.detach(), self.k)
        # Renormalising the top k of a softmax is the softmax of the top k logits, and cannot divide 0 by 0.
        weight_NK = logits_NE.gather(1, expert_NK).softmax(-1)
        return Choice(expert_NK, weight_NK, balance_loss(logits_NE.softmax(-1)))
