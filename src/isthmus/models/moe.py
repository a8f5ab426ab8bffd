"""Mixture of experts, no token dropped: sort the tokens by expert, run each expert on its segment, sum up.

The pass over the experts is written by hand. Autograd would index a stacked weight once per expert and write
a full-size gradient each time, and would keep every intermediate; here each expert has Parameters of its own,
the activation is recomputed, and weighting happens on the narrow side (D, not F).

Shape suffixes: N tokens, K experts per token, R rows (one per token and expert, and padding), D and F as in
`layers`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from isthmus.models.layers import swiglu, swiglu_backward
from isthmus.models.router import Router

BF16_ROWS = 32
"""oneDNN compiles a bf16 kernel for each row count it has not met, at about ten times the cost of running it;
routing changes at every step, so segments are padded to multiples of this."""


@dataclass(frozen=True)
class Dispatch:
    """Rows sorted by expert: expert e owns rows bounds[e] to bounds[e + 1]."""

    bounds: list[int]
    token_R: Tensor
    """Token of each row; padding repeats token 0."""
    row_NK: Tensor
    """Row of each (token, choice): the inverse."""
    counts: Tensor
    """Tokens per expert, without padding, [E] int64."""


def dispatch(expert_NK: Tensor, num_experts: int, multiple: int) -> Dispatch:
    """Sort the choices by expert, stable, so that the order is one whatever the thread count."""
    flat = expert_NK.flatten()
    counts = torch.bincount(flat, minlength=num_experts)
    order = torch.sort(flat, stable=True).indices
    padded = (counts + (multiple - 1)).div(multiple, rounding_mode="floor") * multiple
    ends = padded.cumsum(0)
    rows = torch.arange(flat.numel(), device=flat.device)
    rows += (ends - padded - (counts.cumsum(0) - counts)).repeat_interleave(counts, output_size=flat.numel())
    bounds = [0, *ends.tolist()]
    token_R = torch.zeros(bounds[-1], dtype=torch.int64, device=flat.device)
    token_R[rows] = order.div(expert_NK.shape[1], rounding_mode="floor")
    row_NK = torch.empty_like(flat)
    row_NK[order] = rows
    return Dispatch(bounds, token_R, row_NK.view_as(expert_NK), counts)


class _Experts(torch.autograd.Function):
    """y_n = sum_k weight_nk * expert_nk(x_n); `params`: gate_up, down of expert 0, then of expert 1, ..."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_NK: Tensor, plan: Dispatch, *params: Tensor) -> Tensor:
        rows, dtype = plan.bounds[-1], x_ND.dtype
        gate_up_R2F = x_ND.new_empty(rows, params[0].shape[1])
        y_RD = x_ND.new_empty(rows, x_ND.shape[1])
        for expert, (low, high) in enumerate(pairwise(plan.bounds)):
            if low == high:
                continue
            gate_up, down = params[2 * expert].to(dtype), params[2 * expert + 1].to(dtype)
            x = x_ND.index_select(0, plan.token_R[low:high])
            torch.mm(x, gate_up, out=gate_up_R2F[low:high])
            torch.mm(swiglu(gate_up_R2F[low:high]), down, out=y_RD[low:high])
        ctx.save_for_backward(x_ND, weight_NK, gate_up_R2F, y_RD, *params)
        ctx.plan = plan
        return _combine(y_RD, plan.row_NK, weight_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x_ND, weight_NK, gate_up_R2F, y_RD, *params = ctx.saved_tensors
        plan: Dispatch = ctx.plan
        grad_x_RD = torch.empty_like(y_RD)
        grad_weight_R = torch.empty(y_RD.shape[0], device=y_RD.device)
        weight_R1 = y_RD.new_zeros(y_RD.shape[0], 1)
        weight_R1[plan.row_NK.flatten(), 0] = weight_NK.flatten().to(y_RD.dtype)
        grad_params: list[Tensor | None] = [None] * len(params)
        for expert, (low, high) in enumerate(pairwise(plan.bounds)):
            if low == high:
                continue
            gate_up, down = (p.to(x_ND.dtype) for p in params[2 * expert : 2 * expert + 2])
            tokens = plan.token_R[low:high]
            grad = grads[0].index_select(0, tokens)
            grad_weight_R[low:high] = (grad * y_RD[low:high]).sum(-1, dtype=torch.float32)
            grad.mul_(weight_R1[low:high])
            grad_gate_up, activation = swiglu_backward(grad @ down.t(), gate_up_R2F[low:high])
            x = x_ND.index_select(0, tokens)
            grad_params[2 * expert] = (x.t() @ grad_gate_up).to(params[0].dtype)
            grad_params[2 * expert + 1] = (activation.t() @ grad).to(params[0].dtype)
            torch.mm(grad_gate_up, gate_up.t(), out=grad_x_RD[low:high])
        grad_weight_NK = grad_weight_R[plan.row_NK]
        return _combine(grad_x_RD, plan.row_NK, None), grad_weight_NK, None, *grad_params


def _combine(x_RD: Tensor, row_NK: Tensor, weight_NK: Tensor | None) -> Tensor:
    """sum_k weight_nk * x[row_nk]: one pass over the rows, eight times faster than index and sum."""
    weights = None if weight_NK is None else weight_NK.to(x_RD.dtype)
    return functional.embedding_bag(row_NK, x_RD, mode="sum", per_sample_weights=weights)


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
        y_ND = _Experts.apply(x_ND, choice.weight_NK, plan, *params)
        return MoEOutput(y_ND.view_as(x_BTD), choice.aux_loss, plan.counts)  # pyright: ignore
