"""What a rank is doing, in a page of shared memory: written with plain stores, read by others at any time,
also while the rank holds its interpreter lock, is stopped, or is dead.

One file per rank, of 8-byte words. Aligned words do not tear on the processors we run on; a record of several
words is complete once its step, which is written last, is there. Times are CLOCK_MONOTONIC nanoseconds, which
all processes of a machine share. No thread, no lock, no system call per write.

    word 0..31          the present: see `Word`
    32..95              hash of the collective with sequence n at 32 + n % 64
    96..                a record for each of the last 64 steps, 8 words each: see `StepRecord`
"""

import mmap
import os
import struct
import time
from enum import IntEnum
from pathlib import Path

import msgspec

from isthmus.errors import CorruptError

MAGIC = 0x31_47_50_53_4D_48_54_49
RING = 64
_HASHES, _RECORDS, _RECORD_WORDS = 32, 96, 8
SIZE = 8 * (_RECORDS + RING * _RECORD_WORDS)
_MASK = (1 << 63) - 1


def page_file(folder: Path, process: str) -> Path:
    """Where the page of a process is, in its agent's folder."""
    return folder / f"{process.replace('/', '-')}.page"


class Phase(IntEnum):
    """What the rank's main thread is at. The first two rows are bounded by a step; the rest may take long and
    are never a hang by themselves."""

    LOAD, FORWARD, BACKWARD, EXCHANGE, UPDATE, BOUNDARY = range(6)
    START, CHECKPOINT, EVALUATE, IDLE, REGROUP, DONE = range(6, 12)


UNBOUNDED = frozenset({Phase.START, Phase.CHECKPOINT, Phase.EVALUATE, Phase.IDLE, Phase.REGROUP, Phase.DONE})


class Word(IntEnum):
    MAGIC, PID, GENERATION, STEP = range(4)
    """STEP: optimizer steps done."""
    PHASE, PHASE_NS, STEP_NS = range(4, 7)
    """Since when it is in this phase, and in this step."""
    ISSUED, WAITING, FINISHED, WAIT_SINCE_NS = range(7, 11)
    """Collectives of this generation started; the one it blocks in, or 0; how many are done."""
    MEMORY, LEFT, NONFINITE_STEP = range(11, 14)
    """Device bytes in use; 1 once it leaves in order; the step in which its own gradient was not finite."""
    HASH_STEP, HASH_SLICE, HASH = range(14, 17)
    """Of a slice of the replicated state, as it was after HASH_STEP steps; written last: HASH_STEP."""
    BEAT_NS = 17
    """When anything was written last."""


class StepRecord(msgspec.Struct, frozen=True):
    """One step as the rank saw it. Seconds."""

    step: int
    compute_s: float
    """Without waiting for others or for data."""
    data_s: float
    wait_s: float
    """Blocked in collectives."""
    grad_norm: float
    """Of its own gradient, before it was exchanged."""
    loss: float
    """Of its own rows."""


class PageView(msgspec.Struct, frozen=True, kw_only=True):
    """A page as it was read."""

    pid: int
    generation: int
    step: int
    phase: Phase
    phase_s: float
    """For how long it has been in this phase."""
    step_s: float
    """For how long it has been in this step."""
    issued: int
    waiting: int
    """Sequence number of the collective it blocks in; 0: it does not."""
    waiting_s: float
    finished: int
    memory: int
    left: bool
    nonfinite_step: int
    """-1: none."""
    hash_step: int
    hash_slice: int
    hash: int
    quiet_s: float
    """For how long nothing was written."""
    collectives: dict[int, int]
    """Hash of (operation, type, size) by sequence number, of the last ones issued."""


class PageWriter:
    """The rank's side. Owns the mapping.

    Args:
        path: file to make or to take over; None: memory of this process alone, where nobody watches.
    """

    def __init__(self, path: Path | None = None):
        self._map = _map(path) if path else mmap.mmap(-1, SIZE)
        self._words = memoryview(self._map).cast("q")
        self._floats = memoryview(self._map).cast("d")
        self._wait_ns = self._data_ns = 0
        self._grad_norm = self._loss = 0.0
        for word in range(SIZE // 8):
            self._words[word] = 0
        self._words[Word.NONFINITE_STEP] = self._words[Word.HASH_STEP] = -1
        self._words[Word.PID] = os.getpid()
        self._words[Word.PHASE] = Phase.START
        self._touch()
        self._words[Word.PHASE_NS] = self._words[Word.STEP_NS] = self._words[Word.BEAT_NS]
        self._words[Word.MAGIC] = MAGIC

    def _touch(self) -> int:
        now_ns = time.monotonic_ns()
        self._words[Word.BEAT_NS] = now_ns
        return now_ns

    def phase(self, phase: Phase) -> None:
        """The main thread begins something else."""
        words = self._words
        now_ns = time.monotonic_ns()
        if words[Word.PHASE] == Phase.LOAD:
            self._data_ns += now_ns - words[Word.PHASE_NS]
        words[Word.PHASE_NS] = words[Word.BEAT_NS] = now_ns
        words[Word.PHASE] = phase

    def regrouped(self, generation: int, step: int) -> None:
        """A new group: collectives count from 0 again."""
        words = self._words
        words[Word.ISSUED] = words[Word.WAITING] = words[Word.FINISHED] = 0
        words[Word.STEP] = step
        words[Word.GENERATION] = generation
        self.begin_step()

    def issue(self, signature: int) -> int:
        """A collective is about to start; `signature` is a hash of operation, type and size. Returns its
        sequence number, from 1.
        """
        words = self._words
        sequence = words[Word.ISSUED] + 1
        words[_HASHES + sequence % RING] = signature & _MASK
        words[Word.ISSUED] = sequence
        return sequence

    def wait(self, sequence: int) -> None:
        """The rank blocks until this collective is done."""
        self._words[Word.WAIT_SINCE_NS] = self._touch()
        self._words[Word.WAITING] = sequence

    def resume(self, sequence: int) -> None:
        """It is done."""
        words = self._words
        self._wait_ns += self._touch() - words[Word.WAIT_SINCE_NS]
        words[Word.WAITING] = 0
        words[Word.FINISHED] = max(words[Word.FINISHED], sequence)

    def begin_step(self) -> None:
        """The clock of the next step starts."""
        self._wait_ns = self._data_ns = 0
        self._words[Word.STEP_NS] = self._touch()

    def saw(self, grad_norm: float, loss: float) -> None:
        """This rank's own gradient norm and loss, of the step in hand."""
        self._grad_norm, self._loss = grad_norm, loss

    def nonfinite(self) -> None:
        """This rank's own gradient is not finite in the step in hand."""
        self._words[Word.NONFINITE_STEP] = self._words[Word.STEP]

    def end_step(self, step: int) -> None:
        """`step` optimizer steps are done; the record of the last one is complete."""
        words, now_ns = self._words, self._touch()
        at = _RECORDS + step % RING * _RECORD_WORDS
        words[at] = -1
        total_ns = now_ns - words[Word.STEP_NS]
        words[at + 1] = max(0, total_ns - self._wait_ns - self._data_ns)
        words[at + 2] = self._data_ns
        words[at + 3] = self._wait_ns
        self._floats[at + 4] = self._grad_norm
        self._floats[at + 5] = self._loss
        words[at] = step
        words[Word.STEP] = step
        self.begin_step()

    def hashed(self, step: int, piece: int, value: int) -> None:
        """Hash of slice `piece` of the replicated state after `step` steps."""
        words = self._words
        words[Word.HASH_STEP] = -1
        words[Word.HASH_SLICE] = piece
        words[Word.HASH] = value & _MASK
        words[Word.HASH_STEP] = step

    def memory(self, used: int) -> None:
        """Bytes of the device in use."""
        self._words[Word.MEMORY] = used

    def leave(self) -> None:
        """From here on its end is no fault."""
        self._words[Word.LEFT] = 1

    def close(self) -> None:
        self._words.release()
        self._floats.release()
        self._map.close()


def _map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, SIZE)
        return mmap.mmap(descriptor, SIZE)
    finally:
        os.close(descriptor)


class PageReader:
    """Another process's view of a rank's page. Owns its mapping; the file may go meanwhile."""

    def __init__(self, path: Path):
        """Raises FileNotFoundError while there is none, CorruptError if it is no page."""
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < SIZE:
                raise CorruptError("this is no page of a rank", where=str(path))
            self._map = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
        if struct.unpack_from("<q", self._map)[0] != MAGIC:
            self._map.close()
            raise CorruptError("this is no page of a rank", where=str(path))

    def read(self, now_ns: int | None = None) -> PageView:
        """The page now."""
        words = struct.unpack_from(f"<{_RECORDS}q", self._map)
        now_ns = now_ns or time.monotonic_ns()
        since = lambda word: max(0, now_ns - words[word]) / 1e9  # noqa: E731
        issued, waiting = words[Word.ISSUED], words[Word.WAITING]
        first = max(1, issued - RING + 1)
        return PageView(
            pid=words[Word.PID],
            generation=words[Word.GENERATION],
            step=words[Word.STEP],
            phase=Phase(words[Word.PHASE]),
            phase_s=since(Word.PHASE_NS),
            step_s=since(Word.STEP_NS),
            issued=issued,
            waiting=waiting,
            waiting_s=since(Word.WAIT_SINCE_NS) if waiting else 0.0,
            finished=words[Word.FINISHED],
            memory=words[Word.MEMORY],
            left=bool(words[Word.LEFT]),
            nonfinite_step=words[Word.NONFINITE_STEP],
            hash_step=words[Word.HASH_STEP],
            hash_slice=words[Word.HASH_SLICE],
            hash=words[Word.HASH],
            quiet_s=since(Word.BEAT_NS),
            collectives={n: words[_HASHES + n % RING] for n in range(first, issued + 1)},
        )

    def records(self, after: int) -> list[StepRecord]:
        """Complete records of the steps after `after`, oldest first; at most the last `RING` are there."""
        (step,) = struct.unpack_from("<q", self._map, 8 * Word.STEP)
        found: list[StepRecord] = []
        for wanted in range(max(after + 1, step - RING + 1), step + 1):
            at = 8 * (_RECORDS + wanted % RING * _RECORD_WORDS)
            number, compute, data, wait, norm, loss = struct.unpack_from("<qqqqdd", self._map, at)
            if number == wanted:
                found.append(StepRecord(wanted, compute / 1e9, data / 1e9, wait / 1e9, norm, loss))
        return found

    def close(self) -> None:
        self._map.close()
