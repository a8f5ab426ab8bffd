"""Attention by whole score matrices, for short sequences in bf16 on a CPU.

torch's fused CPU attention spends more on converting bf16 blocks than on multiplying them: both passes
over 256 tokens take 2.7 times as long as the plain products here, of 128 tokens 5 times. In fp32 they
are equal; from about 700 tokens on the fused one wins, as it skips the future and never stores the scores.

Shape suffixes: B batch, T time, K key-value heads, G query heads that share one of them, d head_dim,
M = B * K.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 512

softmax_backward = torch.ops.aten._softmax_backward_data.default


def suits(q_BTHd: Tensor, k_BTKd: Tensor) -> bool:
    """Whether this way is the faster one for queries and keys of one length."""
    short = q_BTHd.shape[1] == k_BTKd.shape[1] <= LONGEST
    return short and q_BTHd.dtype == torch.bfloat16 and q_BTHd.device.type == "cpu"


def short_attention(q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor, mask: Tensor | None) -> Tensor:
    """Causal, or with a mask [B, 1, T, T] that is added to the scores. [B, T, H, d] as the queries."""
    batch, length, num_heads, width = q_BTHd.shape
    groups = k_BTKd.shape[2]
    if mask is None:
        future = torch.full((length, length), float("-inf"), dtype=q_BTHd.dtype, device=q_BTHd.device)
        mask = future.triu_(1).view(1, 1, length, length)
    q_BTKGd = q_BTHd.unflatten(2, (groups, num_heads // groups))
    q = q_BTKGd.permute(0, 2, 3, 1, 4).reshape(batch * groups, -1, width)
    k, v = (x.transpose(1, 2).reshape(batch * groups, length, width) for x in (k_BTKd, v_BTKd))
    mixed: Any = _ShortAttention.apply(q, k, v, mask)
    return mixed.view(batch, num_heads, length, width).transpose(1, 2)


class _ShortAttention(torch.autograd.Function):
    """q [M, G * T, d], group-major; k, v [M, T, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
        length = k.shape[1]
        scores.view(mask.shape[0], -1, length, length).add_(mask)
        probs = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, probs)
        ctx.scale = scale
        return torch.bmm(probs, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        q, k, v, probs = ctx.saved_tensors
        # With the narrow operand transposed, not the probabilities, oneDNN takes two thirds of the time.
        grad_v = torch.bmm(grads[0].transpose(1, 2), probs).transpose(1, 2)
        grad_probs = torch.bmm(grads[0], v.transpose(1, 2))
        grad_scores = softmax_backward(grad_probs, probs, -1, probs.dtype)
        grad_q = torch.bmm(grad_scores, k).mul_(ctx.scale)
        grad_k = torch.bmm(q.transpose(1, 2), grad_scores).transpose(1, 2).mul_(ctx.scale)
        return grad_q, grad_k, grad_v, None
