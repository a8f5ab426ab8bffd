"""A rank's own faults, for drills: the training loop asks at a few points whether one is due.

    injectors = Injectors(checkpoints=folder)
    writer = CheckpointWriter(..., store=injectors.disk)
    journal = Journal(..., clock=injectors.clock)
    ...
    injectors.at(Point.STEP_BEGIN, step)
    injectors.at(Point.GRADIENT, step, parameters=parameters)
    injectors.at(Point.EXCHANGE, step, group=group)

Where nothing was ever asked for, a point costs one attribute test.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from isthmus.clock import RealClock
from isthmus.comm.collective import Collective
from isthmus.errors import InputError
from isthmus.faults.inject.disk import FullDisk
from isthmus.faults.inject.files import damage, newest
from isthmus.faults.inject.kinds import KINDS, Point, refusal, value_of
from isthmus.heal.messages import Inject
from isthmus.train import process_faults, tensor_faults

_PLACES = {"saving": (Point.SAVING,), "recovering": (Point.RECOVERING,)}


def write_down(inject: Inject, steps: int) -> None:
    """A line in this process's log, by one system call: some faults let no later word out."""
    os.write(2, f"drill: {inject.kind} after {steps} steps at {time.time():.6f}\n".encode())


class SkewedClock(RealClock):
    """What the rank believes the wall clock to be."""

    ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s


class Injectors:
    """`at` belongs to the thread that trains; `add` may be called from any.

    Args:
        checkpoints: the site's folder of them, for faults of files.
        told: called just before a fault happens, with the steps that are done; drills note the time.
    """

    def __init__(
        self, checkpoints: Path | None = None, told: Callable[[Inject, int], None] | None = None
    ) -> None:
        self.armed = False
        """Something was asked for."""
        self.disk = FullDisk()
        self.clock = SkewedClock()
        self._checkpoints, self._told = checkpoints, told
        self._lock = threading.Lock()
        self._waiting: list[Inject] = []
        self._step = -1
        self._slowness = 1.0
        self._begun_s = 0.0
        self._leak_bytes = 0
        self._leaked: list[bytes] = []

    def add(self, inject: Inject) -> None:
        """Plan a fault. Those of the whole process that wait for nothing happen here and now, in the thread
        that calls. Raises InputError for one that is none, or is not a rank's.
        """
        why = refusal(inject.kind, inject.value, inject.at, inject.at_step)
        if not why and KINDS[inject.kind].actor in ("agent", "relay"):
            why = f"'{inject.kind}' is no fault of a rank"
        if not why and KINDS[inject.kind].actor == "files" and self._checkpoints is None:
            why = f"this rank has no checkpoints to make '{inject.kind}' of"
        if not why and inject.kind == "oom":
            why = process_faults.too_much(inject.value)
        if why:
            raise InputError(why, where="inject", hint="`isthmus inject --list` has all kinds")
        if KINDS[inject.kind].instant and inject.at_step < 0 and not inject.at:
            self._make(inject, self._step, (), None)
            return
        with self._lock:
            self._waiting.append(inject)
            self.armed = True

    def at(
        self,
        point: Point,
        step: int,
        *,
        parameters: Sequence[Tensor] = (),
        group: Collective | None = None,
    ) -> None:
        """The rank stands here, with `step` optimizer steps done. May never return, may raise.

        Args:
            parameters: at GRADIENT, EXCHANGE and COMMIT.
            group: at EXCHANGE.
        """
        if self.armed:
            self._arrive(point, step, parameters, group)

    def _arrive(
        self, point: Point, step: int, parameters: Sequence[Tensor], group: Collective | None
    ) -> None:
        self._step = step
        if point == Point.STEP_BEGIN and self._leak_bytes:
            self._leaked.append(b"\1" * self._leak_bytes)
        if point == Point.COMPUTE:
            self._begun_s = time.monotonic()
        for inject in self._due(point, step):
            self._make(inject, step, parameters, group)
        if point == Point.EXCHANGE and self._slowness > 1 and self._begun_s:
            time.sleep((self._slowness - 1) * (time.monotonic() - self._begun_s))
            self._begun_s = 0.0

    def _due(self, point: Point, step: int) -> list[Inject]:
        """Taken out of the plan: each happens once."""
        with self._lock:
            due = [
                inject
                for inject in self._waiting
                if inject.at_step <= step and point in _points(inject) and self._possible(inject)
            ]
            self._waiting = [inject for inject in self._waiting if inject not in due]
        return due

    def _possible(self, inject: Inject) -> bool:
        """A fault of a checkpoint waits for the first one."""
        return KINDS[inject.kind].actor != "files" or newest(self._checkpoints or Path()) is not None

    def _make(
        self, inject: Inject, step: int, parameters: Sequence[Tensor], group: Collective | None
    ) -> None:
        if self._told:
            self._told(inject, step)
        kind = KINDS[inject.kind]
        value = value_of(kind, inject.value)
        match inject.kind:
            case "nan":
                tensor_faults.poison_gradient(parameters)
            case "flip":
                tensor_faults.flip_exponent_bit(parameters, int(value))
            case "mismatch":
                if group is not None:
                    tensor_faults.odd_collective(group, parameters)
            case "slow":
                self._slowness = value
            case "leak":
                self._leak_bytes = int(value * 1e6)
            case "disk_full":
                self.disk.fail(int(value))
            case "clock":
                self.clock.ahead_s = value
            case "corrupt" | "truncate":
                damage(inject.kind, self._checkpoints or Path(), value)
            case _:
                process_faults.make(inject.kind, value)


def _points(inject: Inject) -> tuple[Point, ...]:
    return _PLACES[inject.at] if inject.at else KINDS[inject.kind].points
