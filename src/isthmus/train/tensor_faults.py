"""Faults in a rank's numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isthmus.comm.collective import Collective

ODD_SIZE = 17

_EXPONENTS = {
    torch.float32: (torch.int32, 23, 8),
    torch.bfloat16: (torch.int16, 7, 8),
    torch.float16: (torch.int16, 10, 5),
}
"""dtype -> (integers of its size, lowest exponent bit, number of them)."""


@torch.no_grad()
def poison_gradient(parameters: Sequence[Tensor]) -> None:
    """NaN in one value of the gradient that is there, or else of the one that backward makes next."""
    for parameter in parameters:
        if parameter.grad is not None:
            _poison(parameter.grad)
            return
    if not parameters:
        return

    def poison(gradient: Tensor) -> Tensor:
        hook.remove()
        poisoned = gradient.clone()
        _poison(poisoned)
        return poisoned

    hook = parameters[0].register_hook(poison)


def _poison(gradient: Tensor) -> None:
    gradient[(0,) * gradient.dim()] = math.nan


def odd_collective(group: Collective, parameters: Sequence[Tensor]) -> None:
    """One that no other rank makes."""
    group.all_reduce_(torch.zeros(ODD_SIZE, device=parameters[0].device if parameters else "cpu"))


@torch.no_grad()
def flip_exponent_bit(parameters: Sequence[Tensor], number: int) -> None:
    """Of the largest value of the first parameter; the lowest exponent bit is number 1."""
    parameter = next((each for each in parameters if each.dtype in _EXPONENTS), None)
    if parameter is None:
        return
    integers, lowest, count = _EXPONENTS[parameter.dtype]
    flat = parameter.detach().view(-1)
    bits = flat.view(integers)[int(flat.abs().argmax())]
    bits.bitwise_xor_(1 << (lowest + min(number, count) - 1))
