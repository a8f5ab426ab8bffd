"""Many tensors in few messages: the latency of a small one outweighs its bytes by far."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from isthmus.comm.collective import Collective

PACK_BYTES = 4 * 2**20
"""Also what a rank needs of memory beside the tensors."""


@torch.no_grad()
def broadcast_many_(
    group: Collective, tensors: Iterable[Tensor], root: int = 0, pack_bytes: int = PACK_BYTES
) -> None:
    """All ranks take the root's, bit for bit. They pass tensors of the same shapes in the same order."""
    for pack in _packs(tensors, pack_bytes):
        if len(pack) == 1:
            group.broadcast_(pack[0].detach(), root)
            continue
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in pack])
        group.broadcast_(flat, root)
        if group.rank != root:
            parts = flat.split([tensor.numel() for tensor in pack])
            for tensor, part in zip(pack, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def _packs(tensors: Iterable[Tensor], pack_bytes: int) -> Iterator[list[Tensor]]:
    """Cut where a pack would grow too large, or the kind of number or the device changes."""
    pack: list[Tensor] = []
    size = 0
    for tensor in tensors:
        like = not pack or (tensor.dtype, tensor.device) == (pack[0].dtype, pack[0].device)
        if pack and (not like or size + tensor.nbytes > pack_bytes):
            yield pack
            pack, size = [], 0
        pack.append(tensor)
        size += tensor.nbytes
    if pack:
        yield pack
