"""The experts' pass over their segments of the rows, forward and backward.

It is written by hand. Autograd would index a stacked weight once per expert and write a full-size gradient
each time, and would keep every intermediate; here each expert has Parameters of its own, the activation is
recomputed, and weighting happens on the narrow side (D, not F).

Shape suffixes: as in `dispatch`; D hidden, F width of an expert.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from isthmus.models.dispatch import Dispatch
from isthmus.models.layers import swiglu, swiglu_backward


def run_experts(x_ND: Tensor, weight_NK: Tensor, plan: Dispatch, params: Sequence[Tensor]) -> Tensor:
    """y_n = sum_k weight_nk * expert_nk(x_n), [N, D] in x's dtype.

    Args:
        weight_NK: fp32; has a gradient, as x and the parameters have.
        params: gate_up [D, 2F] and down [F, D] of expert 0, then of expert 1, ...; an expert without rows
            gets no gradient (None).
    """
    return _Experts.apply(x_ND, weight_NK, plan, *params)  # pyright: ignore[reportReturnType]


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
        kept = slice(None) if plan.kept_NK is None else plan.kept_NK.flatten()
        weight_R1[plan.row_NK.flatten()[kept], 0] = weight_NK.flatten()[kept].to(y_RD.dtype)
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
        return _combine(grad_x_RD, plan.row_NK, plan.kept_NK), grad_weight_NK, None, *grad_params


def _combine(x_RD: Tensor, row_NK: Tensor, weight_NK: Tensor | None) -> Tensor:
    """sum_k weight_nk * x[row_nk]: one pass over the rows, eight times faster than index and sum."""
    weights = None if weight_NK is None else weight_NK.to(x_RD.dtype)
    return functional.embedding_bag(row_NK, x_RD, mode="sum", per_sample_weights=weights)
