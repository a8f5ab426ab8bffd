"""When a rank's state is copied into its node's memory, and what a group that has lost all of it takes up.

One process of each node copies, since with data parallelism all have the same state. It copies at the step
boundary, before the step is told to anyone: a step that counts is in the copy, if one was due.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
import xxhash
from torch import Tensor

from isthmus.comm.collective import Collective
from isthmus.errors import StorageError
from isthmus.journal import events
from isthmus.train.job import Crew
from isthmus.train.learner import Learner
from isthmus.train.peer_copy import MEMORY, Found, PeerCopy, flat, layout_of, split
from isthmus.train.standing import LastStep, Position, Standing
from isthmus.weights.tensorfile import Arrays

EVERY_ALONE, EVERY_SHARED = 1, 10
"""Steps from copy to copy. A rank that is its whole site has nobody else to remember its state: no step of it
is lost. It costs 2 % of a step where that takes some 80 times as long as copying the state, which is to say
for steps of seconds (`isthmus bench faults`, `faults.peer_copy.*`). In a site of several ranks a copy counts
only when all die at once; then 9 steps at most are done again."""


class CopyFacts(msgspec.Struct, frozen=True):
    """What is kept beside the arrays."""

    position: Position
    last: LastStep | None


@dataclass(frozen=True)
class Held:
    """A sound copy of this node."""

    facts: CopyFacts
    found: Found

    @property
    def step(self) -> int:
        return self.found.step

    def restore(self, learner: Learner, standing: Standing) -> None:
        learner.restore(*split(self.found.arrays))
        standing.position, standing.last = self.facts.position, self.facts.last


class StateCopies:
    """Owns this node's copy: `regrouped` after each forming of the group, `stepped` after each step.

    Args:
        folder: the agent's, one for each node. There are copies if it lies in memory.
    """

    def __init__(self, folder: Path, crew: Crew):
        self._crew, self._learner = crew, crew.learner
        self._folder = folder
        self._layout = layout_of(flat(crew.learner.parameters(), crew.learner.moments()))
        self._copy = PeerCopy(folder, _run_id(crew), self._layout)
        self._writes, self._every = False, EVERY_SHARED
        self._off = not folder.is_relative_to(MEMORY)
        if self._off:
            self._warn(f"{folder} is not in memory ({MEMORY}): there are no copies of the state")
        self._stage = _Pinned(crew.learner) if crew.learner.device != "cpu" else None

    def regrouped(self, group: Collective) -> None:
        """Collective: the lowest rank of each node copies. What was being copied is sealed, on all ranks."""
        if self._stage is not None:
            self._stage.wait()
        node = xxhash.xxh3_64_intdigest(f"{_boot_id()} {self._folder}".encode()) >> 1
        self._writes = group.gather(node).index(node) == group.rank and not self._off
        self._every = EVERY_ALONE if group.world_size == 1 else EVERY_SHARED

    def held(self) -> Held | None:
        """The newest sound copy of this run in this node's memory, told by the rank there that copies."""
        found = self._copy.newest() if self._writes else None
        if found is None:
            return None
        return Held(msgspec.msgpack.decode(found.facts, type=CopyFacts), found)

    def resumed(self, step: int) -> int:
        """Training goes on from there: copies of later steps no longer count. Returns how many steps after it
        were done, as far as this node remembers: they are done again.
        """
        if not self._writes:
            return 0
        lost_steps = max(0, self._copy.last_done() - step)
        self._copy.drop_after(step)
        self._copy.done(step)
        return lost_steps

    def drop_after(self, step: int) -> None:
        self._copy.drop_after(step)

    def stepped(self, standing: Standing) -> None:
        """A step is done and not yet told."""
        if not self._writes:
            return
        step = standing.position.step
        try:
            self._copy.open()
            if step % self._every == 0:
                self._save(step, msgspec.msgpack.encode(CopyFacts(standing.position, standing.last)))
        except StorageError as error:
            self._writes, self._off = False, True
            self._copy.remove()
            self._warn(f"there are no copies of the state in memory: {error}")
            return
        self._copy.done(step)

    def _save(self, step: int, facts: bytes) -> None:
        if self._stage is None:
            arrays = flat(self._learner.parameters(), self._learner.moments())
            self._copy.save(step, facts, arrays)
        else:
            self._stage.save(self._copy, step, facts)

    def _warn(self, text: str) -> None:
        self._crew.journal.emit(events.Note(level="warning", text=f"site {self._crew.job.site}: {text}"))

    def end(self) -> None:
        """The run is over: nobody needs the copy."""
        if self._stage is not None:
            self._stage.wait()
        if self._writes:
            self._copy.remove()
        self._copy.close()


class _Pinned:
    """State of an accelerator, by way of page-locked memory: the host only asks for the transfers, which the
    device does in order with its other work, so that no update overtakes them; a thread waits for them.
    """

    def __init__(self, learner: Learner):
        self._learner = learner
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: StorageError | None = None

    def save(self, copy: PeerCopy, step: int, facts: bytes) -> None:
        """Raises the StorageError of the save before, if it failed."""
        self.wait()
        if self._error:
            raise self._error
        for name, tensor in self._learner.tensors().items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type != "cpu"
                )
            self._buffers[name].copy_(tensor.detach(), non_blocking=True)
        event = torch.Event(self._learner.device)
        event.record()
        self._thread = threading.Thread(target=self._write, args=(event, copy, step, facts), daemon=True)
        self._thread.start()

    def _write(self, event: torch.Event, copy: PeerCopy, step: int, facts: bytes) -> None:
        event.synchronize()
        arrays: Arrays = {name: buffer.numpy() for name, buffer in self._buffers.items()}
        try:
            copy.save(step, facts, arrays)
        except StorageError as error:
            self._error = error

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _run_id(crew: Crew) -> bytes:
    """A run folder that was deleted and made again is another run."""
    folder = crew.job.folder.absolute()
    inode = os.stat(folder).st_ino if folder.exists() else 0
    model, data = msgspec.json.encode(crew.job.run.model), crew.dataset.fingerprint
    return msgspec.msgpack.encode([str(folder), inode, crew.job.site, model, data])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return os.uname().nodename
