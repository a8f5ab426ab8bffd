"""Mixture of experts: route each token, run each expert on its tokens, sum up."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.balance import Balance, Routing, gate_loss, keep_within_capacity, observe
from isthmus.models.dispatch import BF16_ROWS, dispatch
from isthmus.models.experts import run_experts
from isthmus.models.layers import FeedForward
from isthmus.models.router import Router
from isthmus.spec.model import ModelSpec


class Expert(nn.Module):
    """The two matrices of one SwiGLU, stored [in, out]: `gate_up` [D, 2F], gate first, and `down` [F, D]."""

    def __init__(self, hidden_size: int, ffn_size: int):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(hidden_size, 2 * ffn_size))
        self.down = nn.Parameter(torch.empty(ffn_size, hidden_size))


@dataclass(frozen=True)
class MoEOutput:
    """`routing` and `loss` are None without a balance."""

    y: Tensor
    expert_tokens: Tensor
    """Tokens each expert worked on, [E] int64."""
    routing: Routing | None = None
    loss: Tensor | None = None


class MoE(nn.Module):
    """A routed layer, the `index`-th of the model's MoE layers. An expert that gets no token has no gradient
    (None) from that pass.
    """

    def __init__(self, spec: ModelSpec, index: int):
        super().__init__()
        self.index = index
        self.router = Router(spec)
        self.experts = nn.ModuleList(
            Expert(spec.hidden_size, spec.expert_width) for _ in range(spec.num_experts)
        )
        self.shared = FeedForward(spec.hidden_size, spec.shared_ffn_size) if spec.shared_ffn_size else None

    def forward(self, x_BTD: Tensor, balance: Balance | None = None) -> MoEOutput:
        x_ND = x_BTD.flatten(0, 1)
        choice = self.router(x_ND)
        kept_NK = keep_within_capacity(choice, balance.spec) if balance else None
        multiple = BF16_ROWS if x_ND.dtype == torch.bfloat16 else 1
        plan = dispatch(choice.expert_NK, len(self.experts), multiple, kept_NK)
        weight_NK = choice.weight_NK if kept_NK is None else choice.weight_NK * kept_NK
        params: list[Any] = [p for expert in self.experts for p in (expert.gate_up, expert.down)]
        y_ND = run_experts(x_ND, weight_NK, plan, params)
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)
        y_BTD = y_ND.view_as(x_BTD)
        if balance is None:
            return MoEOutput(y_BTD, plan.counts)
        probs_NE = self.router.probs(choice)
        routing = observe(choice, probs_NE, balance.spec)
        loss = gate_loss(balance, self.index, probs_NE, choice.logits_NE, routing.load)
        return MoEOutput(y_BTD, plan.counts, routing, loss)
