"""The collectives that the ranks of one site use, over torch.distributed or for a process on its own.

No object is ever pickled: ranks exchange tensors and small integers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from isthmus.errors import UnreachableError


class GroupBrokenError(UnreachableError):
    """A collective failed: a rank died, hung or cannot be reached, and this group is of no more use."""


class Pending(Protocol):
    def wait(self) -> None:
        """Return when the operation is done. Bounded by the group's timeout."""
        ...


class Collective(Protocol):
    """All ranks of a site make the same calls in the same order. GroupBrokenError if a rank is gone."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def all_reduce_(self, tensor: Tensor) -> None:
        """Sum over the ranks, in place; the same bits on each."""
        ...

    def start_all_reduce_(self, tensor: Tensor) -> Pending:
        """As all_reduce_, in the background: leave the tensor alone until `wait` returns."""
        ...

    def broadcast_(self, tensor: Tensor, root: int = 0) -> None: ...

    def barrier(self) -> None: ...

    def agree(self, value: int) -> int:
        """The largest of the ranks' values (64-bit)."""
        ...

    def share(self, values: Sequence[int], root: int = 0) -> list[int]:
        """The root's values (64-bit), on every rank; each rank passes as many, to be replaced."""
        ...

    def gather(self, value: int) -> list[int]:
        """Every rank's value (64-bit), on every rank."""
        ...

    def share_bytes(self, data: bytes, root: int = 0) -> bytes:
        """The root's bytes, on every rank; what the others pass does not matter."""
        ...

    def start_send(self, tensor: Tensor, to: int) -> Pending:
        """In the background, to the one rank that starts to receive it: leave the tensor alone until `wait`
        returns. Between two ranks, tensors arrive in the order in which they were sent.
        """
        ...

    def start_receive_(self, tensor: Tensor, source: int) -> Pending:
        """As many bytes as `source` sends."""
        ...

    def close(self) -> None: ...


class _Done:
    def wait(self) -> None:
        pass


class SoloCollective:
    """A site of one rank: nothing to exchange."""

    rank = 0
    world_size = 1

    def all_reduce_(self, tensor: Tensor) -> None:
        pass

    def start_all_reduce_(self, tensor: Tensor) -> Pending:
        return _Done()

    def broadcast_(self, tensor: Tensor, root: int = 0) -> None:
        pass

    def barrier(self) -> None:
        pass

    def agree(self, value: int) -> int:
        return value

    def share(self, values: Sequence[int], root: int = 0) -> list[int]:
        return list(values)

    def gather(self, value: int) -> list[int]:
        return [value]

    def share_bytes(self, data: bytes, root: int = 0) -> bytes:
        return data

    def start_send(self, tensor: Tensor, to: int) -> Pending:
        raise AssertionError("there is nobody else")

    def start_receive_(self, tensor: Tensor, source: int) -> Pending:
        raise AssertionError("there is nobody else")

    def close(self) -> None:
        pass


class _TorchPending:
    def __init__(self, work: Any, rank: int):
        self._work = work
        self._rank = rank

    def wait(self) -> None:
        with _reported(self._rank):
            self._work.wait()


class TorchCollective:
    """The default process group of torch.distributed. Owns it: `close` ends it."""

    def __init__(self, device: str):
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._device = device

    def all_reduce_(self, tensor: Tensor) -> None:
        with _reported(self.rank):
            dist.all_reduce(tensor)

    def start_all_reduce_(self, tensor: Tensor) -> Pending:
        with _reported(self.rank):
            return _TorchPending(dist.all_reduce(tensor, async_op=True), self.rank)

    def broadcast_(self, tensor: Tensor, root: int = 0) -> None:
        with _reported(self.rank):
            dist.broadcast(tensor, root)

    def barrier(self) -> None:
        self.agree(0)

    def agree(self, value: int) -> int:
        tensor = torch.tensor([value], dtype=torch.int64, device=self._device)
        with _reported(self.rank):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
            return int(tensor.item())

    def share(self, values: Sequence[int], root: int = 0) -> list[int]:
        tensor = torch.tensor(list(values), dtype=torch.int64, device=self._device)
        self.broadcast_(tensor, root)
        return tensor.tolist()

    def gather(self, value: int) -> list[int]:
        tensor = torch.zeros(self.world_size, dtype=torch.int64, device=self._device)
        tensor[self.rank] = value
        self.all_reduce_(tensor)
        return tensor.tolist()

    def share_bytes(self, data: bytes, root: int = 0) -> bytes:
        (size,) = self.share([len(data)], root)
        tensor = torch.zeros(size, dtype=torch.uint8, device=self._device)
        if self.rank == root:
            tensor.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        self.broadcast_(tensor, root)
        return tensor.cpu().numpy().tobytes()

    def start_send(self, tensor: Tensor, to: int) -> Pending:
        with _reported(self.rank):
            return _TorchPending(dist.isend(tensor, to), self.rank)

    def start_receive_(self, tensor: Tensor, source: int) -> Pending:
        with _reported(self.rank):
            return _TorchPending(dist.irecv(tensor, source), self.rank)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _reported(rank: int) -> Iterator[None]:
    """torch.distributed raises RuntimeErrors of many texts when a peer dies, hangs or cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise GroupBrokenError(
            f"a collective inside the site failed: {str(error).splitlines()[0]}",
            where=f"rank {rank}",
            hint="another rank of this site died, hung or is cut off; its log has the cause",
        ) from error
