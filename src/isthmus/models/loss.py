"""Cross entropy of a linear head that never holds the logits of all tokens at once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100
"""Target of a position that does not count."""


def _rows_at_once(vocab_size: int, device: torch.device) -> int:
    """Few enough that the logits stay near the cache of a CPU, or fill an accelerator."""
    return max(256, 2 ** (21 if device.type == "cpu" else 27) // vocab_size)


def _loss_and_probs(logits: Tensor, targets: Tensor, probs: Tensor) -> Tensor:
    """Cross entropy of each row, fp32; the softmax goes to `probs`."""
    target_logits = logits.gather(1, targets[:, None]).squeeze(1)
    largest = logits.amax(-1)
    torch.softmax(logits, -1, dtype=torch.float32, out=probs)
    # The largest probability is at least 1/V, so its logarithm is safe where that of the target's is not.
    return largest.float() - probs.amax(-1).log() - target_logits.float()


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are taken in the forward pass, chunk by chunk, while the softmax is at hand."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, train: bool) -> Tensor:
        weight = weight_VD.to(x_ND.dtype)
        total = torch.zeros((), dtype=torch.float64, device=x_ND.device)
        grad_x = torch.empty_like(x_ND) if train else None
        grad_weight = torch.zeros_like(weight_VD) if train else None
        rows = min(_rows_at_once(weight.shape[0], x_ND.device), max(1, x_ND.shape[0]))
        logits_buffer = x_ND.new_empty(rows, weight.shape[0])
        probs_buffer = torch.empty_like(logits_buffer, dtype=torch.float32)
        for start in range(0, x_ND.shape[0], rows):
            x, targets = x_ND[start : start + rows], targets_N[start : start + rows]
            logits, probs = logits_buffer[: len(x)], probs_buffer[: len(x)]
            torch.mm(x, weight.t(), out=logits)
            total += _loss_and_probs(logits, targets, probs).sum(dtype=torch.float64)
            if grad_x is not None and grad_weight is not None:
                probs[torch.arange(len(x), device=x.device), targets] -= 1.0
                probs = logits.copy_(probs)
                torch.mm(probs, weight, out=grad_x[start : start + rows])
                if x.dtype == grad_weight.dtype:
                    grad_weight.addmm_(probs.t(), x)
                else:
                    grad_weight += probs.t() @ x
        if train:
            ctx.save_for_backward(grad_x, grad_weight)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        grad_x, grad_weight = ctx.saved_tensors
        return (grad_x * grads[0]).to(grad_x.dtype), grad_weight * grads[0], None, None


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """(mean cross entropy over the targets that are not IGNORE, their number as int64); 0 if there are none.

    The mean is over nats per token, fp32, and has a gradient by `x` and `weight`.
    """
    valid = targets_N != IGNORE
    num_targets = valid.sum()
    if not bool(valid.all()):
        kept = valid.nonzero().flatten()
        x_ND, targets_N = x_ND.index_select(0, kept), targets_N.index_select(0, kept)
    total: Any = _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, torch.is_grad_enabled())
    return total / num_targets.clamp(min=1), num_targets
