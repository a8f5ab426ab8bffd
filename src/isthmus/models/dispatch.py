"""Which row of the experts' work belongs to which token: sort the tokens by expert, pad, and back.

Shape suffixes: N tokens, K experts per token, E experts, R rows (one per token and expert, and padding).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BF16_ROWS = 32
"""oneDNN compiles a bf16 kernel for each row count it has not met, at about ten times the cost of running it;
routing changes at every step, so segments are padded to multiples of this."""


@dataclass(frozen=True)
class Dispatch:
    """Rows sorted by expert. The last row is padding that belongs to none: dropped choices are sent there."""

    ends_E: Tensor
    """Expert e's rows end before ends[e] (int64), where the next one's begin; beyond are nobody's."""
    token_R: Tensor
    """Token of each row; -1: padding."""
    row_NK: Tensor
    """Row of each (token, choice): the inverse."""
    counts: Tensor
    """Tokens per expert, without padding and what was dropped, [E] int64."""
    kept_NK: Tensor | None = None
    """False where a choice was dropped. None: all are kept."""

    @cached_property
    def bounds(self) -> list[int]:
        """Expert e owns rows bounds[e] to bounds[e + 1]. Waits for the device."""
        return [0, *self.ends_E.tolist()]


def dispatch(expert_NK: Tensor, num_experts: int, multiple: int, kept_NK: Tensor | None = None) -> Dispatch:
    """Sort the choices by expert, stable, so that the order is one whatever the thread count.

    On an accelerator row counts stay there, and are not waited for: there are as many rows as there could be.

    Args:
        multiple: each expert's rows are padded to a multiple of it.
        kept_NK: False where a choice is dropped; None: all are kept.
    """
    flat, device = expert_NK.flatten(), expert_NK.device
    if kept_NK is not None:
        flat = flat.masked_fill(~kept_NK.flatten(), num_experts)
    expert_of, order = torch.sort(flat, stable=True)
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    padded = (counts + (multiple - 1)).div(multiple, rounding_mode="floor") * multiple
    ends = padded.cumsum(0)
    ends_E = ends[:num_experts]
    at_most = flat.numel() + num_experts * (multiple - 1)
    last = int(ends_E[-1]) if device.type == "cpu" else at_most
    shift = ends - padded - (counts.cumsum(0) - counts)
    row_of = torch.arange(flat.numel(), device=device).add_(shift[expert_of])
    if kept_NK is not None:
        row_of.masked_fill_(expert_of == num_experts, last)
    token_R = torch.full((last + 1,), -1, dtype=torch.int64, device=device)
    token_R.scatter_(0, row_of, order.div(expert_NK.shape[1], rounding_mode="floor"))
    token_R[last] = -1
    row_NK = torch.empty_like(flat).scatter_(0, order, row_of)
    return Dispatch(ends_E, token_R, row_NK.view_as(expert_NK), counts[:num_experts], kept_NK)


def row_weights(weight_NK: Tensor, plan: Dispatch) -> Tensor:
    """The weight of each row [R], 0 for padding."""
    weight_R = weight_NK.new_zeros(len(plan.token_R))
    weight_R.scatter_(0, plan.row_NK.flatten(), weight_NK.flatten())
    weight_R[-1] = 0.0
    return weight_R
