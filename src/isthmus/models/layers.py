"""Building blocks: linear map, RMSNorm, rotary embedding and SwiGLU.

Parameters are fp32. Activations come in the compute dtype of the step (fp32 or bf16) and each layer casts its
weight to it; the residual stream and all norms stay fp32. The hand-written backward passes save
memory traffic: they keep the inputs only, and recompute the cheap parts.

Shape suffixes: B batch, T time, N = B * T tokens, D hidden, H heads, F width of a SwiGLU.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from isthmus.models.stretch import stretched, yarn_attention_factor
from isthmus.spec.model import ModelSpec

silu_backward = torch.ops.aten.silu_backward.grad_input


class Linear(nn.Module):
    """y = x W^T (+ b). `weight` is [out, in], `bias` [out] or None; both start uninitialised."""

    def __init__(self, in_size: int, out_size: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_size, in_size))
        self.bias = nn.Parameter(torch.empty(out_size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        return (x * rstd).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight, rstd = ctx.saved_tensors
        grad = grads[0].float()
        unit = x * rstd
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        slope = product.mul_(weight).mean(-1, keepdim=True)
        grad_x = torch.mul(grad, weight).addcmul_(unit, slope, value=-1).mul_(rstd)
        return grad_x, grad_weight, None, None


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (arXiv 1910.07467). Takes fp32, gives `dtype`."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return _RMSNorm.apply(x, self.weight, self.eps, dtype)  # pyright: ignore[reportReturnType]


def rope_tables(positions_T: Tensor, spec: ModelSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [T, 1, head_dim], of the rotary embedding (arXiv 2104.09864), stretched by the spec.

    With yarn both carry its attention factor, so that the scores are multiplied by its square.
    """
    width, scaling = spec.head_dim, spec.rope_scaling
    exponents = torch.arange(0, width, 2, device=positions_T.device, dtype=torch.float32) / width
    angles = positions_T.float()[:, None] / stretched(spec.rope_theta**exponents, spec)
    cos, sin = angles.cos(), angles.sin()
    if scaling.kind == "yarn":
        factor = scaling.attention_factor or yarn_attention_factor(scaling.factor)
        cos, sin = cos * factor, sin * factor
    cos, sin = cos.to(dtype), sin.to(dtype)
    return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Swap the halves first: whole heads multiply several times as fast as half ones."""
    half = x.shape[-1] // 2
    swapped = torch.empty_like(x)
    swapped[..., :half] = x[..., half:]
    swapped[..., half:] = x[..., :half]
    return swapped.mul_(sin).addcmul_(x, cos)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None


def rope(x_BTHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head's first half against its second half, as the Llama family does."""
    return _Rope.apply(x_BTHd, cos, sin)  # pyright: ignore[reportReturnType]


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [rows, 2F] -> [rows, F] (arXiv 2002.05202). No autograd: for hand-written passes."""
    width = gate_up.shape[-1] // 2
    return functional.silu(gate_up[..., :width]).mul_(gate_up[..., width:])


def swiglu_backward(grad: Tensor, gate_up: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradient of `swiglu` by its input [rows, 2F], and the activation [rows, F] it needed on the way."""
    width = gate_up.shape[-1] // 2
    gate, up = gate_up[..., :width], gate_up[..., width:]
    grad_gate_up = torch.empty_like(gate_up) if out is None else out
    grad_gate, grad_up = grad_gate_up[..., :width], grad_gate_up[..., width:]
    activation = functional.silu(gate)
    torch.mul(grad, activation, out=grad_up)
    silu_backward(grad * up, gate, grad_input=grad_gate)
    return grad_gate_up, activation.mul_(up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return swiglu(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore
        return swiglu_backward(grads[0], ctx.saved_tensors[0])[0]


class FeedForward(nn.Module):
    """Dense SwiGLU layer. `gate_up.weight` is [2F, D], gate first; `down.weight` is [D, F]."""

    def __init__(self, hidden_size: int, ffn_size: int):
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * ffn_size)
        self.down = Linear(ffn_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(_SwiGLU.apply(self.gate_up(x)))  # pyright: ignore[reportArgumentType]
