"""Checksums of parameters that all ranks hold alike."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

HASHED_PARTS = 56
"""Parameters are hashed part by part, one after each step. Ranks that differ are found within as many steps,
and the few until somebody compares them.
"""
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def checksum(tensors: Sequence[Tensor], piece: int, pieces: int) -> int:
    """Of one of `pieces` equal parts of the tensors: the sum of their bit patterns. Ranks that hold the same
    bits have the same one, whatever the order of adding; one flipped bit changes it.
    """
    total = 0
    for bits, start, stop in _parts(tensors, piece, pieces):
        total += int(bits[start:stop].sum(dtype=torch.int64))
    return total & (2**63 - 1)


def _parts(tensors: Sequence[Tensor], piece: int, pieces: int) -> Iterator[tuple[Tensor, int, int]]:
    size = sum(tensor.numel() for tensor in tensors)
    first, last, offset = size * piece // pieces, size * (piece + 1) // pieces, 0
    for tensor in tensors:
        start, stop = max(0, first - offset), min(tensor.numel(), last - offset)
        if start < stop:
            yield tensor.detach().reshape(-1).view(_BITS[tensor.element_size()]), start, stop
        offset += tensor.numel()
