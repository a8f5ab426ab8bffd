"""Mixture of experts: route each token, run each expert on its tokens, sum up."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.models.dispatch import BF16_ROWS, dispatch
from isthmus.models.experts import run_experts
from isthmus.models.router import Router


class Expert(nn.Module):
    """The two matrices of one SwiGLU, stored [in, out]: `gate_up` [D, 2F], gate first, and `down` [F, D]."""

    def __init__(self, hidden_size: int, ffn_size: int):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(hidden_size, 2 * ffn_size))
        self.down = nn.Parameter(torch.empty(ffn_size, hidden_size))


@dataclass(frozen=True)
class MoEOutput:
    y: Tensor
    aux_loss: Tensor
    expert_tokens: Tensor
    """Tokens each expert received, [E] int64."""


class MoE(nn.Module):
    """A routed layer. An expert that gets no token has no gradient (None) from that pass."""

    def __init__(self, hidden_size: int, ffn_size: int, num_experts: int, k: int):
        super().__init__()
        self.router = Router(hidden_size, num_experts, k)
        self.experts = nn.ModuleList(Expert(hidden_size, ffn_size) for _ in range(num_experts))

    def forward(self, x_BTD: Tensor) -> MoEOutput:
        x_ND = x_BTD.flatten(0, 1)
        choice = self.router(x_ND)
        multiple = BF16_ROWS if x_ND.dtype == torch.bfloat16 else 1
        plan = dispatch(choice.expert_NK, len(self.experts), multiple)
        params = [p for expert in self.experts for p in (expert.gate_up, expert.down)]
        y_ND = run_experts(x_ND, choice.weight_NK, plan, params)
        return MoEOutput(y_ND.view_as(x_BTD), choice.aux_loss, plan.counts)
