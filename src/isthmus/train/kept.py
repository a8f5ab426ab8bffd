"""A rank that its site's agent keeps alive: it warms up without a place, takes the one it is given, and takes
another whenever its group breaks.
"""

import contextlib
import gc
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isthmus.comm.collective import Collective
from isthmus.comm.kept import KeptCollective
from isthmus.comm.site_group import Limits, form_group
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError, IsthmusError, UnreachableError
from isthmus.faults.inject.kinds import Point
from isthmus.faults.page import PageWriter, Phase, page_file
from isthmus.heal import messages
from isthmus.heal.lifeline import Ears, Lifeline
from isthmus.heal.messages import Broken, Failed, Form, Hello, Inject, Joined, Leaving, Warm
from isthmus.train.injectors import Injectors
from isthmus.train.learner import Learner
from isthmus.train.signals import Leave

LIMITS = Limits(meet_s=60.0, collective_s=900.0)
"""The first: as long as peers may take to come. The second: longer than rank 0 may keep the others waiting,
for the server at the start, for a last checkpoint."""


@dataclass(frozen=True)
class KeptBy:
    """Who keeps this process, and what it is called there."""

    process: str
    folder: Path
    """The agent's: its socket, and the pages of its processes."""

    @property
    def door(self) -> Path:
        return self.folder / DOOR

    @property
    def page(self) -> Path:
        return page_file(self.folder, self.process)


DOOR = "door.sock"


class Kept:
    """Owns the line to the agent, the page and the group.

    Args:
        backend: collective library of this rank's chip, on `device`.
    """

    def __init__(self, by: KeptBy, backend: str, device: str, leave: Leave, injectors: Injectors):
        self._by, self.injectors = by, injectors
        self._device, self._backend = device, backend
        self.page = PageWriter(by.page)
        self.group = KeptCollective(self._make, self.page)
        self.form: Form | None = None
        self._step = -1
        ears = Ears(abandon=self.group.abandon, leave=leave.ask, inject=self._inject, pulse=self.page.pulse)
        self.line = Lifeline(by.door, self._hello, ears)

    def _hello(self) -> Hello:
        rank, generation = (self.form.rank, self.form.generation) if self.form else (-1, 0)
        return Hello(self._by.process, os.getpid(), rank, generation, self._step)

    def _inject(self, inject: Inject) -> None:
        with contextlib.suppress(InputError):  # the agent has refused what is no fault
            self.injectors.add(inject)

    def _make(self, form: Form) -> Collective:
        return form_group(form, self.line, self._backend, LIMITS, self._device)

    def warm(self, learner: Learner, dataset: Dataset, num_rows: int) -> None:
        """One step on real rows, undone: what a first step pays is paid when the place is taken."""
        parameters = {name: array.copy() for name, array in learner.parameters().items()}
        moments = {name: array.copy() for name, array in learner.moments().items()}
        learner.step(dataset.batch(np.arange(num_rows, dtype=np.int64)), lr=0.0)
        learner.restore(parameters, moments)
        gc.collect()
        gc.freeze()
        self.line.say(Warm())

    def take_place(self) -> bool:
        """Waits for a place and takes it. False where this process is told to leave instead."""
        self.page.phase(Phase.IDLE)
        return self._next()

    def rejoin(self, error: UnreachableError, step: int) -> None:
        """The group broke: waits for a place in the next one, and takes it."""
        assert self.form is not None
        self._step = step
        self.page.phase(Phase.REGROUP)
        self.line.say(Broken(self.form.generation, step, error.message))
        self._next()

    def _next(self) -> bool:
        while True:
            after = self.form.generation if self.form else 0
            order = self.line.next_form(after)
            if isinstance(order, messages.Leave):
                if self.form is None:
                    self.line.say(Leaving(order.reason))
                    return False
                continue
            self.form = order
            self.injectors.at(Point.RECOVERING if after else Point.START, self._step)
            self.page.regrouped(order.generation, self._step)
            self.page.phase(Phase.REGROUP)
            try:
                self.group.form(order)
                return True
            except UnreachableError as error:
                self.line.say(Broken(order.generation, self._step, error.message))

    def joined(self, step: int, lost_steps: int = 0) -> None:
        assert self.form is not None
        self._step = step
        self.line.say(Joined(self.form.generation, step, lost_steps))

    @property
    def memory(self) -> Path | None:
        return self._by.folder

    @property
    def at_most_step(self) -> int:
        return self.form.at_most_step if self.form else -1

    def failed(self, error: Exception) -> int:
        """Tells the agent why this process ends; returns its exit code."""
        text = "".join(traceback.format_exception(error))
        print(f"error: {error}" if isinstance(error, IsthmusError) else text, file=sys.stderr)
        code = error.exit_code if isinstance(error, IsthmusError) else 1
        last = str(error).splitlines()[0] if str(error) else type(error).__name__
        with contextlib.suppress(UnreachableError):
            self.line.say(Failed(self._step, f"{type(error).__name__}: {last}", text, code))
        return code

    def leaving(self, reason: str) -> None:
        with contextlib.suppress(UnreachableError):
            self.line.say(Leaving(reason))

    def close(self) -> None:
        self.group.close()
        self.line.close()
        self.page.close()
