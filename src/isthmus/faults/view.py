"""What is read from the page of a rank (see `page`)."""

from collections.abc import Iterator, Mapping

import msgspec

from isthmus.faults.layout import RING, Phase


class Issued(Mapping[int, int]):
    """Hash of (operation, type, size) by sequence number, of the last collectives issued. Looked at only
    where something is wrong, so it is the ring as it was copied from the page.

    Args:
        ring: hash of the collective with sequence n at n % `RING`.
        numbers: those that are in it.
    """

    __slots__ = ("_numbers", "_ring")

    def __init__(self, ring: tuple[int, ...], numbers: range):
        self._ring, self._numbers = ring, numbers

    def __getitem__(self, number: int) -> int:
        if number not in self._numbers:
            raise KeyError(number)
        return self._ring[number % RING]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class StepRecord(msgspec.Struct, frozen=True):
    """One step as the rank saw it. Seconds."""

    step: int
    compute_s: float
    """Without waiting for others or for data, and without what is no part of a step, as a checkpoint."""
    data_s: float
    wait_s: float
    """Blocked in collectives."""
    grad_norm: float
    """Of its own gradient, before it was exchanged; 0: not said."""
    loss: float
    """Of its own rows; 0: not said."""


class StateHash(msgspec.Struct, frozen=True):
    """Hash of slice `piece` of the replicated state, as it was after `step` steps."""

    step: int
    piece: int
    value: int


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
    """Bytes of the device that its tensors take."""
    memory_limit: int = 0
    """That they could take; 0: not known."""
    left: bool
    nonfinite_step: int
    """-1: none."""
    hash_step: int
    quiet_s: float
    """For how long nothing was written."""
    pulse_s: float | None = None
    """For how long no thread beside the main one ran; None: there is none that tells."""
    collectives: Mapping[int, int]
    """Hash of (operation, type, size) by sequence number, of the last ones issued."""
