"""What a rank is doing, in a page of shared memory: written with plain stores, read by others at any time,
also while the rank holds its interpreter lock, is stopped, or is dead.

One file per rank, of 8-byte words (`layout`). Aligned words do not tear on the processors we run on; records
of several words carry a check. Times are CLOCK_MONOTONIC nanoseconds, which all processes of a machine share.
No thread, no lock, no system call per write. A write takes under a microsecond, so words are plain integers
here: an index that is an IntEnum costs as much as the store.
"""

import mmap
import os
import struct
from pathlib import Path
from time import monotonic_ns
from typing import NamedTuple

from isthmus.errors import CorruptError
from isthmus.faults.layout import (
    HASHES,
    MAGIC,
    MASK,
    RECORD_WORDS,
    RECORDS,
    RING,
    SIZE,
    STATE_WORDS,
    STATES,
    UNBOUNDED,
    WORDS,
    Phase,
    Word,
)
from isthmus.faults.view import Issued, PageView, StateHash, StepRecord

__all__ = [
    "MAGIC", "RING", "SIZE", "UNBOUNDED", "PageReader", "PageView", "PageWriter", "Phase", "StateHash",
    "StepRecord", "Word",
]  # fmt: skip

(
    _MAGIC, _PID, _GENERATION, _STEP, _PHASE, _PHASE_NS, _STEP_NS, _ISSUED, _WAITING, _FINISHED,
    _WAIT_SINCE_NS, _MEMORY, _LEFT, _NONFINITE_STEP, _HASH_STEP, _BEAT_NS, _PULSE_NS, _MEMORY_LIMIT,
) = (int(word) for word in Word)  # fmt: skip
_PRESENT, _WORD = struct.Struct(f"{RECORDS}q"), struct.Struct("q")
_PEEK = struct.Struct(
    f"{8 * _GENERATION}x2q{8 * (_NONFINITE_STEP - _STEP - 1)}xq{8 * (_BEAT_NS - _NONFINITE_STEP - 1)}xq"
)
_PHASES = tuple(Phase)
_LOAD, _UNBOUNDED_FROM = int(Phase.LOAD), int(Phase.START)


def page_file(folder: Path, process: str) -> Path:
    """Where the page of a process is, in its agent's folder."""
    return folder / f"{process.replace('/', '-')}.page"


class PageWriter:
    """The rank's side. Owns the mapping.

    Args:
        path: file to make or to take over; None: memory of this process alone, where nobody watches.
    """

    __slots__ = (
        "_aside_ns", "_data_ns", "_floats", "_grad_norm", "_last_nonfinite", "_loss", "_map",
        "_phase_wait_ns", "_wait_ns", "_words",
    )  # fmt: skip

    def __init__(self, path: Path | None = None):
        self._map = _map(path) if path else mmap.mmap(-1, SIZE)
        self._words = words = memoryview(self._map).cast("q")
        self._floats = memoryview(self._map).cast("d")
        self._wait_ns = self._data_ns = self._aside_ns = self._phase_wait_ns = 0
        self._grad_norm = self._loss = 0.0
        self._last_nonfinite = -2
        for word in range(WORDS):
            words[word] = 0
        words[_NONFINITE_STEP] = words[_HASH_STEP] = -1
        words[_PID] = os.getpid()
        words[_PHASE] = Phase.START
        words[_PHASE_NS] = words[_STEP_NS] = words[_BEAT_NS] = monotonic_ns()
        words[_MAGIC] = MAGIC

    def phase(self, phase: Phase) -> None:
        """The main thread begins something else."""
        words, now_ns = self._words, monotonic_ns()
        if not _LOAD < words[_PHASE] < _UNBOUNDED_FROM:
            self._count_phase(now_ns)
        self._phase_wait_ns = self._wait_ns
        words[_PHASE_NS] = words[_BEAT_NS] = now_ns
        words[_PHASE] = phase

    def _count_phase(self, now_ns: int) -> None:
        """What of this phase is time for data, or no part of the step; waiting is counted elsewhere."""
        words = self._words
        spent_ns = now_ns - max(words[_PHASE_NS], words[_STEP_NS]) - (self._wait_ns - self._phase_wait_ns)
        if words[_PHASE] == _LOAD:
            self._data_ns += spent_ns
        else:
            self._aside_ns += spent_ns

    def regrouped(self, generation: int, step: int) -> None:
        """A new group, which stands at `step`: collectives count from 0 again, later steps are void."""
        words = self._words
        words[_ISSUED] = words[_WAITING] = words[_FINISHED] = 0
        for at in (
            *range(RECORDS, STATES, RECORD_WORDS),
            *range(STATES, WORDS, STATE_WORDS),
            _NONFINITE_STEP,
            _HASH_STEP,
        ):
            if words[at] > step:
                words[at] = -1
        self._last_nonfinite = -2
        words[_STEP] = step
        words[_GENERATION] = generation
        self.begin_step()

    def issue(self, signature: int) -> int:
        """A collective is about to start; `signature` is a hash of operation, type and size. Returns its
        sequence number, from 1.
        """
        words = self._words
        sequence = words[_ISSUED] + 1
        words[HASHES + sequence % RING] = signature & MASK
        words[_ISSUED] = sequence
        return sequence

    def wait(self, sequence: int) -> None:
        """The rank blocks until this collective is done."""
        words = self._words
        words[_WAIT_SINCE_NS] = words[_BEAT_NS] = monotonic_ns()
        words[_WAITING] = sequence

    def resume(self, sequence: int) -> None:
        """It is done."""
        words = self._words
        words[_BEAT_NS] = now_ns = monotonic_ns()
        self._wait_ns += now_ns - words[_WAIT_SINCE_NS]
        words[_WAITING] = 0
        if sequence > words[_FINISHED]:
            words[_FINISHED] = sequence

    def begin_step(self) -> None:
        """The clock of the next step starts."""
        self._wait_ns = self._data_ns = self._aside_ns = self._phase_wait_ns = 0
        self._grad_norm = self._loss = 0.0
        self._words[_STEP_NS] = self._words[_BEAT_NS] = monotonic_ns()

    def saw(self, grad_norm: float, loss: float) -> None:
        """This rank's own gradient norm and loss, of the step in hand."""
        self._grad_norm, self._loss = grad_norm, loss

    def nonfinite(self) -> None:
        """This rank's own gradient is not finite in the step in hand. Kept is the first step of a run of such
        steps, since a reader may come by only after what it spoilt has spread to all.
        """
        step = self._words[_STEP]
        if not 0 <= step - self._last_nonfinite <= 1:
            self._words[_NONFINITE_STEP] = step
        self._last_nonfinite = step

    def end_step(self, step: int) -> None:
        """`step` optimizer steps are done; the record of the last one is complete."""
        words, now_ns = self._words, monotonic_ns()
        if not _LOAD < words[_PHASE] < _UNBOUNDED_FROM:
            self._count_phase(now_ns)
        at = RECORDS + step % RING * RECORD_WORDS
        data_ns, wait_ns = self._data_ns, self._wait_ns
        compute_ns = now_ns - words[_STEP_NS] - wait_ns - data_ns - self._aside_ns
        if compute_ns < 0:
            compute_ns = 0
        words[at] = -1
        words[at + 1] = compute_ns
        words[at + 2] = data_ns
        words[at + 3] = wait_ns
        self._floats[at + 4] = self._grad_norm
        self._floats[at + 5] = self._loss
        words[at + 6] = step ^ compute_ns ^ data_ns ^ wait_ns ^ words[at + 4] ^ words[at + 5] ^ MAGIC
        words[at] = words[_STEP] = step
        self._wait_ns = self._data_ns = self._aside_ns = self._phase_wait_ns = 0
        self._grad_norm = self._loss = 0.0
        words[_STEP_NS] = words[_BEAT_NS] = now_ns

    def hashed(self, step: int, piece: int, value: int) -> None:
        """Hash of slice `piece` of the replicated state after `step` steps. Those of the last `RING` steps
        are kept, so that a reader that comes by now and then misses none.
        """
        words = self._words
        value &= MASK
        at = STATES + step % RING * STATE_WORDS
        words[at] = words[_HASH_STEP] = -1
        words[at + 1] = piece
        words[at + 2] = value
        words[at + 3] = step ^ piece ^ value ^ MAGIC
        words[at] = words[_HASH_STEP] = step

    def memory(self, used: int, limit: int) -> None:
        """Bytes of the device that this process's tensors take, and that they could take; 0: not known."""
        self._words[_MEMORY] = used
        self._words[_MEMORY_LIMIT] = limit

    def pulse(self) -> None:
        """From a thread beside the main one, a few times a second: as long as it comes, the interpreter lock
        is not held by anything that sleeps.
        """
        self._words[_PULSE_NS] = monotonic_ns()

    def leave(self) -> None:
        """From here on its end is no fault."""
        self._words[_LEFT] = 1

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


class Peek(NamedTuple):
    """In the order of the page."""

    generation: int
    step: int
    nonfinite_step: int
    beat_ns: int


class PageReader:
    """Another process's view of a rank's page. Owns its mapping; the file may go meanwhile."""

    def __init__(self, path: Path):
        """Raises FileNotFoundError while there is none, CorruptError if it is no page."""
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < SIZE:
                raise CorruptError("this is no page of a rank", where=str(path))
            self._map = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
        if self._word(_MAGIC) != MAGIC:
            self._map.close()
            raise CorruptError("this is no page of a rank", where=str(path))

    def _word(self, word: int) -> int:
        return _WORD.unpack_from(self._map, 8 * word)[0]

    def peek(self) -> "Peek":
        """The little that tells whether the rest is worth reading."""
        return Peek._make(_PEEK.unpack_from(self._map))

    def read(self, now_ns: int | None = None) -> PageView:
        """The page now."""
        words = _PRESENT.unpack_from(self._map)
        issued_since, hash_step_since = self._word(_ISSUED), self._word(_HASH_STEP)
        now_ns = now_ns or monotonic_ns()
        since = lambda word: max(0, now_ns - words[word]) / 1e9  # noqa: E731
        issued, waiting = words[_ISSUED], words[_WAITING]
        first = max(1, issued - RING + 1, issued_since - RING + 2)
        return PageView(
            pid=words[_PID],
            generation=words[_GENERATION],
            step=words[_STEP],
            phase=_PHASES[words[_PHASE]],
            phase_s=since(_PHASE_NS),
            step_s=since(_STEP_NS),
            issued=issued,
            waiting=waiting,
            waiting_s=since(_WAIT_SINCE_NS) if waiting else 0.0,
            finished=words[_FINISHED],
            memory=words[_MEMORY],
            memory_limit=words[_MEMORY_LIMIT],
            left=bool(words[_LEFT]),
            nonfinite_step=words[_NONFINITE_STEP],
            hash_step=words[_HASH_STEP] if words[_HASH_STEP] == hash_step_since else -1,
            quiet_s=since(_BEAT_NS),
            pulse_s=since(_PULSE_NS) if words[_PULSE_NS] else None,
            collectives=Issued(words[HASHES:RECORDS], range(first, issued + 1)),
        )

    def records(self, after: int) -> list[StepRecord]:
        """Complete records of the steps after `after`, oldest first; at most the last `RING` are there."""
        step = self._word(_STEP)
        found: list[StepRecord] = []
        for wanted in range(max(after + 1, step - RING + 1), step + 1):
            at = 8 * (RECORDS + wanted % RING * RECORD_WORDS)
            raw = self._map[at : at + 56]
            number, compute, data, wait, norm_bits, loss_bits, check = struct.unpack("7q", raw)
            if number == wanted and check == number ^ compute ^ data ^ wait ^ norm_bits ^ loss_bits ^ MAGIC:
                norm, loss = struct.unpack_from("2d", raw, 32)
                found.append(StepRecord(wanted, compute / 1e9, data / 1e9, wait / 1e9, norm, loss))
        return found

    def states(self, after: int) -> list[StateHash]:
        """Hashes of the state after the steps after `after`, oldest first, as far as they were made and are
        still there.
        """
        newest = self._word(_HASH_STEP)
        found: list[StateHash] = []
        for wanted in range(max(after + 1, newest - RING + 1), newest + 1):
            step, piece, value, check = struct.unpack_from(
                "4q", self._map, 8 * (STATES + wanted % RING * STATE_WORDS)
            )
            if step == wanted and check == step ^ piece ^ value ^ MAGIC:
                found.append(StateHash(step, piece, value))
        return found

    def close(self) -> None:
        self._map.close()
