"""The mean over the ranks, of gradients and of what forward has changed in the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.comm.collective import Collective, Pending

BUCKET_BYTES = 16 << 20


@dataclass(frozen=True)
class _Bucket:
    shapes: list[torch.Size]
    put: list[Callable[[Tensor], object]]
    flat: Tensor
    pending: Pending

    def finish(self, world_size: int) -> None:
        self.pending.wait()
        self.flat.div_(world_size)
        parts = self.flat.split([shape.numel() for shape in self.shapes])
        for put, part, shape in zip(self.put, parts, self.shapes, strict=True):
            put(part.view(shape))


@torch.no_grad()
def average(
    parameters: Sequence[nn.Parameter],
    buffers: Sequence[tuple[Tensor, bool]],
    group: Collective,
    notice: bool,
) -> int:
    """Each `grad` becomes the mean over the ranks, the same bits on all; one that no rank has stays None. So
    does each floating buffer that any rank has changed (True), such as running means.

    Returns how many ranks passed `notice`.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    floating = [(buffer, changed) for buffer, changed in buffers if buffer.is_floating_point()]
    mine = [notice, *(p.grad is not None for p in trained), *(changed for _, changed in floating)]
    facts = torch.tensor(mine, dtype=torch.int64).to(parameters[0].device)
    group.all_reduce_(facts)
    notices, *holders = facts.tolist()
    tensors: list[Tensor] = []
    puts: list[Callable[[Tensor], object]] = []
    held = list(zip(trained, holders[: len(trained)], strict=True))
    for parameter in reversed([parameter for parameter, count in held if count]):
        tensors.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        puts.append(_put_gradient(parameter))
    for (buffer, _), count in zip(floating, holders[len(trained) :], strict=True):
        if count:
            tensors.append(buffer)
            puts.append(buffer.copy_)
    for bucket in [_start(group, tensors[part], puts[part]) for part in _parts(tensors)]:
        bucket.finish(group.world_size)
    return notices


def _put_gradient(parameter: nn.Parameter) -> Callable[[Tensor], object]:
    def put(gradient: Tensor) -> None:
        parameter.grad = gradient

    return put


def _start(group: Collective, tensors: list[Tensor], puts: list[Callable[[Tensor], object]]) -> _Bucket:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return _Bucket([tensor.shape for tensor in tensors], puts, flat, group.start_all_reduce_(flat))


def _parts(tensors: Sequence[Tensor]) -> list[slice]:
    """Runs of tensors of one type that travel together."""
    parts: list[slice] = []
    first, size = 0, 0
    for index, tensor in enumerate(tensors):
        if index > first and (size >= BUCKET_BYTES or tensor.dtype != tensors[first].dtype):
            parts.append(slice(first, index))
            first, size = index, 0
        size += tensor.numel() * tensor.element_size()
    return [*parts, slice(first, len(tensors))] if tensors else []
