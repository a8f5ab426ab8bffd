"""A process of a user's script that an agent keeps alive: its line to the agent, its page, and its place."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.errors import UnreachableError
from isthmus.faults.page import PageWriter, Phase, page_file
from isthmus.heal.lifeline import Ears, Lifeline
from isthmus.heal.messages import Broken, Form, Hello, Joined, Leave, Leaving, Warm
from isthmus.rundir import RunDir
from isthmus.train.nursery import write_to

DOOR = "door.sock"
MEET_S = 60.0
_MEETING = "isthmus/meeting"
_JOINS, _COLD = "joins", "cold"
_GROUP_S = 900.0
"""A process that its agent gives no place for so long is of no use."""
POLL_S = 0.02
LAST_S = 20.0
"""For the other ranks, once rank 0 has done its part."""


@dataclass(frozen=True)
class Home:
    """Where things of this process are."""

    live: Path
    """The agent's folder: socket, pages."""
    run: RunDir
    site: str
    process: str


@dataclass
class Owner:
    """Owns the line and the page. A script that calls `live.join` makes it stay from group to group."""

    home: Home
    form: Form | None = None
    stays: bool = False
    step: int = -1
    """Optimizer steps of its state."""
    leaving: str = ""
    """Why it is to end in order; empty: nobody asked."""
    broke: Callable[[], None] = field(default=lambda: None)
    """The group in use is over."""

    def __post_init__(self) -> None:
        self.page = PageWriter(page_file(self.home.live, self.home.process))
        self.page.phase(Phase.IDLE)
        ears = Ears(abandon=lambda: self.broke(), leave=self._leave, pulse=self.page.pulse)
        self.line = Lifeline(self.home.live / DOOR, self.hello, ears)

    def hello(self) -> Hello:
        rank, generation = (self.form.rank, self.form.generation) if self.form else (-1, 0)
        return Hello(self.home.process, os.getpid(), rank, generation, self.step, self.stays)

    def _leave(self, reason: str) -> None:
        """A script that knows nothing of us gets the signal that it would get from any launcher."""
        if self.form is not None and not self.stays:
            with contextlib.suppress(UnreachableError):
                self.line.say(Leaving(reason))
            os.kill(os.getpid(), signal.SIGTERM)
        self.leaving = reason

    # ---- before there is a place

    def first_order(self) -> Form | Leave | None:
        """Waits for a place. None: scripts of this run join by themselves, so this one can warm up."""
        while True:
            with contextlib.suppress(UnreachableError):
                return self.line.next_form(0, 10 * POLL_S)
            if self.warms_up:
                return None

    @property
    def warms_up(self) -> bool:
        """This run's script is known to call `live.join`, and runs up to there without a place."""
        return (self.home.live / _JOINS).exists() and not (self.home.live / _COLD).exists()

    def stay_cold(self) -> None:
        """It does not: from now on standbys wait before its first line."""
        (self.home.live / _COLD).touch()

    def joins(self) -> None:
        """The script has called `live.join`: it outlives its group from here on."""
        (self.home.live / _JOINS).touch()
        self.stays = True
        self.line.say(self.hello())
        if self.form is None:
            self.line.say(Warm())

    # ---- a place

    def next_order(self) -> Form | Leave:
        """Raises UnreachableError where the agent has none."""
        return self.line.next_form(self.form.generation if self.form else 0, _GROUP_S)

    def take(self, form: Form) -> None:
        """The place in the environment, as torchrun would set it. Raises UnreachableError."""
        self.form = form
        write_to(self.home.run.rank_log(self.home.site, form.rank))
        self.page.regrouped(form.generation, self.step)
        self.page.phase(Phase.REGROUP if self.stays else Phase.IDLE)
        address, _, port = self._meeting(form).rpartition(":")
        rank, size = str(form.rank), str(form.world_size)
        os.environ.update(
            RANK=rank, LOCAL_RANK=rank, ROLE_RANK=rank, GROUP_RANK="0",
            WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, ROLE_WORLD_SIZE=size, GROUP_WORLD_SIZE="1",
            MASTER_ADDR=address, MASTER_PORT=port, ROLE_NAME="default",
            TORCHELASTIC_RESTART_COUNT=str(form.generation - 1), TORCHELASTIC_RUN_ID=self.home.run.path.name,
            TORCHELASTIC_USE_AGENT_STORE="False",
        )  # fmt: skip

    def _meeting(self, form: Form) -> str:
        """Where rank 0 of this generation listens: a port that no earlier one had."""
        if form.rank == 0:
            self.line.post(form.generation, _MEETING, f"{form.address}:{_free_port()}".encode())
        return self.line.posted(form.generation, _MEETING, MEET_S).decode()

    def joined(self, step: int) -> None:
        assert self.form is not None
        self.step = step
        self.line.say(Joined(self.form.generation, step))

    def broken(self, reason: str) -> None:
        assert self.form is not None
        self.line.say(Broken(self.form.generation, self.step, reason))

    # ---- the end

    def leave(self) -> None:
        """This process ends in order. Rank 0 does so last: with its word the run is done."""
        self.page.leave()
        if self.form is not None:
            self._after_the_others(self.form)
        with contextlib.suppress(UnreachableError):
            self.line.say(Leaving(self.leaving or "done"))

    def _after_the_others(self, form: Form) -> None:
        left = [self.home.live / f"left-{form.generation}-{rank}" for rank in range(form.world_size)]
        left[form.rank].touch()
        deadline_s = time.monotonic() + LAST_S  # one may hang as it takes its group down
        while form.rank == 0 and not all(path.exists() for path in left) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)
"""Of this process, while its script runs."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
