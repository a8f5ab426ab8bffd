"""The group of a site whose members are replaced while the others stay alive.

One object for the whole life of a process: `form` gives it its next composition, everything that holds it
goes on using it. Each collective is told to the process's page before it starts, and when the rank blocks in
it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from isthmus.comm.collective import Collective, GroupBrokenError, Pending, SoloCollective
from isthmus.comm.sockets import Opened, open_sockets, shut
from isthmus.faults.page import PageWriter
from isthmus.heal.messages import Form

MakeGroup = Callable[[Form], Collective]
"""Meets the others of a generation; raises UnreachableError."""

_NAMES = ("all_reduce", "broadcast", "agree", "share", "gather", "share_bytes")
_OPERATIONS = {name: index + 1 for index, name in enumerate(_NAMES)}


def signature(operation: str, tensor: Tensor) -> int:
    """The same number on all ranks that make the same call: of operation, element type and size."""
    kind = tensor.element_size() * 2 + tensor.is_floating_point()
    return (_OPERATIONS[operation] * 64 + kind) * 1_000_003 + tensor.numel()


class KeptCollective:
    """A `Collective` that can be formed again. Alone, until it is formed for the first time.

    Args:
        make: how a group is made on this kind of chip.
        page: where the rank tells what it does.
    """

    def __init__(self, make: MakeGroup, page: PageWriter):
        self._make, self._page = make, page
        self._inner: Collective = SoloCollective()
        self._lock = threading.Lock()
        self._others: Opened = {}
        """Sockets of this process that are not the group's."""
        self._sockets: Opened | None = None
        """The group's; None while it is being made."""
        self._over = False
        """The group was broken up: a rank that is alone in it has no socket to tell it so."""
        self.generation = 0

    @property
    def rank(self) -> int:
        return self._inner.rank

    @property
    def world_size(self) -> int:
        return self._inner.world_size

    def form(self, form: Form) -> None:
        """Ends the group there was and meets the members of the next. Raises UnreachableError."""
        self._end()
        with self._lock:
            self._others, self._sockets, self._over = open_sockets(), None, False
            self.generation = form.generation
        self._inner = self._make(form)
        with self._lock:
            self._sockets = self._new_sockets()

    def abandon(self) -> None:
        """Breaks the group, from any thread: whoever waits in it gets an error."""
        with self._lock:
            self._over = True
            shut(self._new_sockets() if self._sockets is None else self._sockets)

    def close(self) -> None:
        self._end()

    def _end(self) -> None:
        """Peers that are not as far see the connections close."""
        inner, self._inner = self._inner, SoloCollective()
        with contextlib.suppress(RuntimeError):
            self.abandon()
            inner.close()

    def _new_sockets(self) -> Opened:
        now = open_sockets()
        return {fd: inode for fd, inode in now.items() if self._others.get(fd) != inode}

    def all_reduce_(self, tensor: Tensor) -> None:
        if self.world_size > 1:
            self.start_all_reduce_(tensor).wait()

    def start_all_reduce_(self, tensor: Tensor) -> Pending:
        self._check()
        sequence = self._page.issue(signature("all_reduce", tensor))
        return _Watched(self._inner.start_all_reduce_(tensor), self._page, sequence)

    def broadcast_(self, tensor: Tensor, root: int = 0) -> None:
        with self._blocking("broadcast", tensor):
            self._inner.broadcast_(tensor, root)

    def barrier(self) -> None:
        self.agree(0)

    def agree(self, value: int) -> int:
        with self._blocking("agree", _ONE):
            return self._inner.agree(value)

    def share(self, values: Sequence[int], root: int = 0) -> list[int]:
        with self._blocking("share", torch.empty(len(values), dtype=torch.int64, device="meta")):
            return self._inner.share(values, root)

    def gather(self, value: int) -> list[int]:
        with self._blocking("gather", _ONE):
            return self._inner.gather(value)

    def share_bytes(self, data: bytes, root: int = 0) -> bytes:
        with self._blocking("share_bytes", _ONE):
            return self._inner.share_bytes(data, root)

    def start_send(self, tensor: Tensor, to: int) -> Pending:
        """Not on the page, as what other ranks do at the same time is not the same."""
        return self._inner.start_send(tensor, to)

    def start_receive_(self, tensor: Tensor, source: int) -> Pending:
        return self._inner.start_receive_(tensor, source)

    def _check(self) -> None:
        if self._over:
            raise GroupBrokenError("the group was broken up", where=f"generation {self.generation}")

    @contextlib.contextmanager
    def _blocking(self, operation: str, tensor: Tensor) -> Iterator[None]:
        self._check()
        sequence = self._page.issue(signature(operation, tensor))
        self._page.wait(sequence)
        yield
        self._page.resume(sequence)


_ONE = torch.empty(1, dtype=torch.int64, device="meta")


class _Watched:
    def __init__(self, pending: Pending, page: PageWriter, sequence: int):
        self._pending, self._page, self._sequence = pending, page, sequence

    def wait(self) -> None:
        self._page.wait(self._sequence)
        self._pending.wait()
        self._page.resume(self._sequence)
