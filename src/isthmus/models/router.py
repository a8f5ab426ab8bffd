"""Top-k router: which experts each token visits, and with what weight.

Shape suffixes: N tokens, D hidden, E experts, K experts per token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.spec.model import ModelSpec

_NORM_EPS = 1e-6
"""Added to the variance in gating-logit normalisation; the paper states none."""


@dataclass(frozen=True)
class Choice:
    expert_NK: Tensor
    """Experts of each token, the best first (int64)."""
    weight_NK: Tensor
    """Their weights, fp32."""
    logits_NE: Tensor
    """Of all experts, before normalisation, fp32."""
    scores_NE: Tensor
    """Of all experts, before any bias and renormalisation, fp32."""


def top_k(values_NE: Tensor, k: int) -> Tensor:
    """Indices of the k largest, best first; equal ones by their index, whatever the thread count.

    `torch.topk` promises no order among equals; `argmax` gives the first. k passes of it take about a third
    of the time of a stable sort.
    """
    rest_NE = values_NE.clone()
    best: list[Tensor] = []
    for _ in range(k):
        best.append(rest_NE.argmax(-1, keepdim=True))
        rest_NE.scatter_(1, best[-1], float("-inf"))
    return torch.cat(best, 1)


def normalise_gate(logits_NE: Tensor, scale: float) -> Tensor:
    """scale (z - mean) / std over each token's n experts (Skywork-MoE, arXiv 2406.06563, eq. 6).

    The paper does not say which std; the model's published inference code divides by n - 1, and so do we.
    """
    experts = logits_NE.shape[-1:]
    unbiased = ((experts[0] - 1) / experts[0]) ** 0.5
    return (scale * unbiased) * functional.layer_norm(logits_NE, experts, eps=_NORM_EPS)


class Router(nn.Module):
    """Scores over all experts in fp32, the top k of them chosen (Skywork-MoE, eq. 1-2).

    `weight` is [E, D]. `bias` [E], where the model has one, is added to the scores in choosing alone, has no
    gradient, and is moved by `train.balance` (arXiv 2408.15664).
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.num_experts, spec.hidden_size))
        if spec.router_bias:
            self.bias = nn.Parameter(torch.empty(spec.num_experts), requires_grad=False)
        self._spec = spec

    def forward(self, x_ND: Tensor) -> Choice:
        spec = self._spec
        logits_NE = functional.linear(x_ND.float(), self.weight)
        gate_NE = normalise_gate(logits_NE, spec.gate_norm) if spec.gate_norm else logits_NE
        scores_NE = gate_NE.softmax(-1) if spec.router_score == "softmax" else gate_NE.sigmoid()
        # Softmax can round unlike logits to equal scores: where nothing is added, the logits decide.
        ranked_NE = scores_NE + self.bias if spec.router_bias else gate_NE
        expert_NK = top_k(ranked_NE.detach(), spec.top_k)
        if spec.renormalize and spec.router_score == "softmax":
            # The softmax of the top k logits is the same, and cannot divide 0 by 0.
            weight_NK = gate_NE.gather(1, expert_NK).softmax(-1)
        else:
            weight_NK = scores_NE.gather(1, expert_NK)
            weight_NK = _to_one(weight_NK) if spec.renormalize else weight_NK
        return Choice(expert_NK, weight_NK * spec.route_scale, logits_NE, scores_NE)

    def probs(self, choice: Choice) -> Tensor:
        """Gate probabilities over all experts [N, E], summing to one: what balance is judged by."""
        if self._spec.router_score == "softmax":
            return choice.scores_NE
        return _to_one(choice.scores_NE)


def _to_one(scores: Tensor) -> Tensor:
    """Rows that sum to one, however small the scores."""
    return functional.normalize(scores, p=1.0, dim=-1, eps=torch.finfo(scores.dtype).tiny)
