"""Copies of state that no two ranks have alike: each rank's shard is in its own node's memory and, sent there
beside training, in that of another node.

No run uses this: it is built and tested, and nothing is sharded yet. With data parallelism alone every node
has the whole state and nothing need be sent (`state_copies`).
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from isthmus.comm.collective import Collective, Pending
from isthmus.train.peer_copy import Found, Layout, PeerCopy, Shard, layout_of, neighbour
from isthmus.weights.tensorfile import Arrays

_SLOTS = 2


class ShardCopies:
    """Owns the files of this rank's shard and of those it keeps for others. All ranks make the same calls.

    Args:
        folder: of this node.
        ranks_per_node: of this site; all nodes but the last have as many.
    """

    def __init__(self, folder: Path, run: bytes, like: Arrays, group: Collective, ranks_per_node: int):
        rank, size = group.rank, group.world_size
        mine = msgspec.msgpack.encode(layout_of(like))
        layouts = [msgspec.msgpack.decode(group.share_bytes(mine, r), type=Layout) for r in range(size)]
        copies = [
            PeerCopy(folder, run, layout, Shard(owner=owner, index=owner, of=size))
            for owner, layout in enumerate(layouts)
        ]
        self._group = group
        self._keepers = [neighbour(r, size, ranks_per_node) for r in range(size)]
        self.own = copies[rank]
        self.held = {r: copies[r] for r in range(size) if self._keepers[r] == rank and r != rank}
        """By owner."""
        self._pending: list[Pending] = []
        self._arriving: list[tuple[PeerCopy, int, np.ndarray]] = []

    def save(self, step: int, facts: bytes, arrays: Arrays) -> None:
        """Copies the shard, and starts to send the copy to its keeper. Raises GroupBrokenError where the copy
        before did not arrive, and StorageError.
        """
        self.finish()
        self.own.save(step, facts, arrays)
        keeper = self._keepers[self._group.rank]
        if keeper != self._group.rank:
            self._send(self.own, step, keeper)
        for owner, copy in self.held.items():
            self._receive(copy, owner)

    def finish(self) -> None:
        """Waits until what was sent has arrived. What is not as it was sent is not sealed."""
        pending, self._pending = self._pending, []
        arriving, self._arriving = self._arriving, []
        for each in pending:
            each.wait()
        for copy, slot, seal in arriving:
            copy.seal_of(slot)[:] = seal
            if copy.is_sealed(slot):
                copy.check(slot)

    def _send(self, copy: PeerCopy, step: int, to: int) -> None:
        slot = copy.slot_of(step)
        assert slot is not None
        for part in (copy.window(slot), copy.seal_of(slot)):
            self._pending.append(self._group.start_send(_tensor(part), to))

    def _receive(self, copy: PeerCopy, source: int) -> None:
        copy.open()
        slot = copy.free_slot()
        seal = np.zeros_like(copy.seal_of(slot))
        for part in (copy.window(slot), seal):
            self._pending.append(self._group.start_receive_(_tensor(part), source))
        self._arriving.append((copy, slot, seal))

    def restore(self) -> Found | None:
        """The newest step of which every rank's shard is sound, at home or at its keeper's: the same on all
        ranks, None where there is none. Each gets its own shard of it.
        """
        ranks = range(self._group.world_size)
        at_home = self._tell(_sound_steps(self.own))
        at_keepers = []
        for owner in ranks:
            told = self._tell(_sound_steps(self.held[owner]) if owner in self.held else [])
            at_keepers.append(told[self._keepers[owner]])
        step = max(
            (
                step
                for step in {step for steps in at_home + at_keepers for step in steps}
                if all(step in at_home[r] or step in at_keepers[r] for r in ranks)
            ),
            default=-1,
        )
        if step < 0:
            return None
        for owner in ranks:
            if step not in at_home[owner]:
                self._bring_back(owner, step)
        self.finish()
        return self.own.newest(step)

    def _bring_back(self, owner: int, step: int) -> None:
        if owner == self._group.rank:
            self._receive(self.own, self._keepers[owner])
        elif owner in self.held:
            self._send(self.held[owner], step, owner)

    def _tell(self, steps: Sequence[int]) -> list[list[int]]:
        """Every rank's steps."""
        padded = [*steps, *[-1] * (_SLOTS - len(steps))]
        columns = [self._group.gather(step) for step in padded]
        return [[step for step in row if step >= 0] for row in zip(*columns, strict=True)]

    def close(self) -> None:
        for copy in (self.own, *self.held.values()):
            copy.close()


def _sound_steps(copy: PeerCopy) -> list[int]:
    return [step for step in copy.steps() if copy.newest(step)]


def _tensor(part: np.ndarray) -> Tensor:
    return torch.from_numpy(part)
