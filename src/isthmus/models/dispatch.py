"""Which row of the experts' work belongs to which token: sort the tokens by expert, pad, and back.

Shape suffixes: N tokens, K experts per token, E experts, R rows (one per token and expert, and padding).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
    kept_NK: Tensor | None = None
    """False where a choice was dropped: it has no row, and its row_NK is any (0). None: all are kept."""


def dispatch(expert_NK: Tensor, num_experts: int, multiple: int, kept_NK: Tensor | None = None) -> Dispatch:
    """Sort the choices by expert, stable, so that the order is one whatever the thread count.

    Args:
        multiple: each expert's rows are padded to a multiple of it.
        kept_NK: False where a choice is dropped; None: all are kept.
    """
    flat = expert_NK.flatten()
    order = torch.sort(flat, stable=True).indices
    if kept_NK is not None:
        order = order[kept_NK.flatten()[order]]
        flat = flat[kept_NK.flatten()]
    counts = torch.bincount(flat, minlength=num_experts)
    padded = (counts + (multiple - 1)).div(multiple, rounding_mode="floor") * multiple
    ends = padded.cumsum(0)
    rows = torch.arange(flat.numel(), device=flat.device)
    rows += (ends - padded - (counts.cumsum(0) - counts)).repeat_interleave(counts, output_size=flat.numel())
    bounds = [0, *ends.tolist()]
    token_R = torch.zeros(bounds[-1], dtype=torch.int64, device=flat.device)
    token_R[rows] = order.div(expert_NK.shape[1], rounding_mode="floor")
    row_NK = torch.zeros_like(expert_NK)
    row_NK.view(-1)[order] = rows
    return Dispatch(bounds, token_R, row_NK, counts, kept_NK)
