"""All experts at once by grouped matrix multiplication, for accelerators: row counts stay on the device.

Shape suffixes: as in `dispatch`; D hidden, F width of an expert.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isthmus.models.dispatch import Dispatch, row_weights
from isthmus.models.row_kernels import TorchKernels

_kernels = TorchKernels()
_grouped_mm: Any = getattr(torch, "_grouped_mm", None)


def available(x: Tensor, params: Sequence[Tensor]) -> bool:
    """On a CPU it is a loop, slower than ours; in other types than bf16 few chips have it. Rows must be
    multiples of 16 bytes.
    """
    suits = x.device.type != "cpu" and x.dtype == torch.bfloat16 and _grouped_mm is not None
    return suits and all(size % 8 == 0 for param in params[:2] for size in param.shape)


class GroupedExperts(torch.autograd.Function):
    """As `experts.run_experts`, with segments of multiples of 16 rows. Experts without rows get zeros."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_NK: Tensor, plan: Dispatch, *params: Tensor) -> Tensor:
        weight_R, ends = row_weights(weight_NK, plan), plan.ends_E.int()
        gate_up_R2F = _grouped_mm(_gather(x_ND, plan), _stack(params[0::2], x_ND), offs=ends)
        down_EFD = _stack(params[1::2], x_ND)
        activation_RF = x_ND.new_empty(len(weight_R), down_EFD.shape[1])
        _kernels.swiglu(gate_up_R2F, weight_R, activation_RF)
        ctx.save_for_backward(x_ND, weight_R, gate_up_R2F, *params)
        ctx.plan = plan
        return _combine(_grouped_mm(activation_RF, down_EFD, offs=ends), plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x_ND, weight_R, gate_up_R2F, *params = ctx.saved_tensors
        plan: Dispatch = ctx.plan
        ends, dtype = plan.ends_E.int(), params[0].dtype
        gate_up_ED2F, down_EFD = _stack(params[0::2], x_ND), _stack(params[1::2], x_ND)
        x_RD, grad_RD = _gather(x_ND, plan), _gather(grads[0], plan)
        grad_RF = _grouped_mm(grad_RD, down_EFD.transpose(1, 2), offs=ends)
        grad_R2F, grad_weight_R = torch.empty_like(gate_up_R2F), torch.empty_like(weight_R)
        activation_RF = torch.empty_like(grad_RF)
        _kernels.swiglu_backward(grad_RF, gate_up_R2F, weight_R, (grad_R2F, grad_weight_R, activation_RF))
        grad_weight_R[-1] = 0.0
        grad_x_RD = _grouped_mm(grad_R2F, gate_up_ED2F.transpose(1, 2), offs=ends)
        grad_params: list[Tensor | None] = [None] * len(params)
        grad_params[0::2] = _grouped_mm(x_RD.t(), grad_R2F, offs=ends).to(dtype).unbind()
        grad_params[1::2] = _grouped_mm(activation_RF.t(), grad_RD, offs=ends).to(dtype).unbind()
        return _combine(grad_x_RD, plan), grad_weight_R[plan.row_NK], None, *grad_params


def _stack(params: Sequence[Tensor], like: Tensor) -> Tensor:
    stacked = like.new_empty(len(params), *params[0].shape)
    torch.ops.aten._foreach_copy_(list(stacked.unbind()), list(params))
    return stacked


def _gather(x_ND: Tensor, plan: Dispatch) -> Tensor:
    x_RD = x_ND.new_empty(len(plan.token_R), x_ND.shape[1])
    _kernels.gather(x_ND.contiguous(), plan.token_R, x_RD)
    return x_RD


def _combine(y_RD: Tensor, plan: Dispatch) -> Tensor:
    """Rows of nobody are uninitialised; the last is where what was dropped is looked for."""
    y_RD[-1] = 0.0
    y_ND = y_RD.new_empty(len(plan.row_NK), y_RD.shape[1])
    _kernels.combine(y_RD, plan.row_NK, y_ND)
    return y_ND
