"""The experts' pass over their segments of the rows, forward and backward.

It is written by hand. Autograd would index a stacked weight once per expert and write a full-size gradient
each time, and would keep every intermediate; here each expert has Parameters of its own, the router's weight
is folded into the activation, which is recomputed, and what the backward pass does not need lies in buffers
that all experts share.

Shape suffixes: as in `dispatch`; D hidden, F width of an expert; L rows of one expert.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isthmus.models import grouped_experts
from isthmus.models.dispatch import Dispatch, row_weights
from isthmus.models.row_kernels import RowKernels, kernels_for


def run_experts(x_ND: Tensor, weight_NK: Tensor, plan: Dispatch, params: list[Tensor]) -> Tensor:
    """y_n = sum_k weight_nk * expert_nk(x_n) over the choices that were kept, [N, D] in x's dtype.

    Args:
        weight_NK: has a gradient, as x and the parameters have.
        params: gate_up [D, 2F] and down [F, D] of expert 0, then of expert 1, ...; an expert without rows
            gets no gradient (None), or zeros where the experts run as one group.
    """
    function = grouped_experts.GroupedExperts if grouped_experts.available(x_ND, params) else _Experts
    return function.apply(x_ND, weight_NK, plan, *params)  # pyright: ignore[reportReturnType]


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_NK: Tensor, plan: Dispatch, *params: Tensor) -> Tensor:
        kernels, x_ND = kernels_for(x_ND), x_ND.contiguous()
        buffers = _Buffers(x_ND)
        weight_R = row_weights(weight_NK, plan)
        y_RD = _rows(x_ND, plan)
        gate_ups: list[Tensor] = []
        for expert, low, high in _segments(plan):
            gate_up, down = buffers.cast(params, expert)
            x_LD = buffers.take("x", high - low, len(gate_up))
            kernels.gather(x_ND, plan.token_R[low:high], x_LD)
            gate_ups.append(torch.mm(x_LD, gate_up))
            activation = buffers.take("activation", high - low, len(down))
            kernels.swiglu(gate_ups[-1], weight_R[low:high], activation)
            torch.mm(activation, down, out=y_RD[low:high])
        ctx.save_for_backward(x_ND, weight_R, *params, *gate_ups)
        ctx.plan = plan
        y_ND = torch.empty_like(x_ND)
        kernels.combine(y_RD, plan.row_NK, y_ND)
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x_ND, weight_R, *tensors = ctx.saved_tensors
        plan: Dispatch = ctx.plan
        num_params = 2 * len(plan.ends_E)
        params, gate_ups = tensors[:num_params], iter(tensors[num_params:])
        kernels, grad_ND = kernels_for(x_ND), grads[0].contiguous()
        buffers = _Buffers(x_ND)
        grad_weight_R = torch.zeros_like(weight_R)
        grad_x_RD = _rows(x_ND, plan)
        grad_params: list[Tensor | None] = [None] * num_params
        for expert, low, high in _segments(plan):
            rows, tokens = high - low, plan.token_R[low:high]
            gate_up, down = buffers.cast(params, expert)
            grad_LD = buffers.take("grad", rows, down.shape[1])
            kernels.gather(grad_ND, tokens, grad_LD)
            grad_LF = torch.mm(grad_LD, down.t(), out=buffers.take("grad_activation", rows, len(down)))
            grad_gate_up = buffers.take("grad_gate_up", rows, gate_up.shape[1])
            activation = buffers.take("activation", rows, len(down))
            out = grad_gate_up, grad_weight_R[low:high], activation
            kernels.swiglu_backward(grad_LF, next(gate_ups), weight_R[low:high], out)
            torch.mm(grad_gate_up, gate_up.t(), out=grad_x_RD[low:high])
            x_LD = buffers.take("x", rows, len(gate_up))
            kernels.gather(x_ND, tokens, x_LD)
            for index, left, right in (
                (2 * expert, x_LD, grad_gate_up),
                (2 * expert + 1, activation, grad_LD),
            ):
                grad_params[index] = _weight_gradient(kernels, buffers, left, right, params[index].dtype)
        grad_x_ND = torch.empty_like(x_ND)
        kernels.combine(grad_x_RD, plan.row_NK, grad_x_ND)
        return grad_x_ND, grad_weight_R[plan.row_NK], None, *grad_params


def _segments(plan: Dispatch) -> list[tuple[int, int, int]]:
    """(expert, first row, end) of the experts that have rows."""
    bounds = enumerate(pairwise(plan.bounds))
    return [(expert, low, high) for expert, (low, high) in bounds if low < high]


def _weight_gradient(
    kernels: RowKernels, buffers: "_Buffers", left: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    """left^T right. oneDNN's bf16 kernels read a transposed left side up to four times slower."""
    if left.dtype == torch.bfloat16 and left.device.type == "cpu":
        transposed = buffers.take("transposed", left.shape[1], left.shape[0])
        kernels.transpose(left, transposed)
    else:
        transposed = left.t()
    if dtype == left.dtype:
        return transposed @ right
    product = buffers.take("product", left.shape[1], right.shape[1])
    return torch.mm(transposed, right, out=product).to(dtype)


def _rows(x_ND: Tensor, plan: Dispatch) -> Tensor:
    """[R, D], uninitialised but for the rows of nobody, which are zeros."""
    y_RD = x_ND.new_empty(len(plan.token_R), x_ND.shape[1])
    y_RD[plan.bounds[-1] :] = 0.0
    return y_RD


class _Buffers:
    """Memory that one expert after the other uses: fresh memory would cost a page fault every 4 KiB."""

    def __init__(self, like: Tensor):
        self._like = like
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, width: int) -> Tensor:
        """[rows, width], uninitialised; what was taken under this name before is lost."""
        flat = self._flat.get(name)
        if flat is None or len(flat) < rows * width:
            flat = self._flat[name] = self._like.new_empty(rows * width)
        return flat[: rows * width].view(rows, width)

    def cast(self, params: Any, expert: int) -> tuple[Tensor, Tensor]:
        """gate_up and down of an expert in the compute dtype."""
        gate_up, down = params[2 * expert : 2 * expert + 2]
        if gate_up.dtype == self._like.dtype:
            return gate_up, down
        return self.take("gate_up", *gate_up.shape).copy_(gate_up), self.take("down", *down.shape).copy_(down)
