"""A site of a few CPU ranks that an agent of its own keeps alive, in a temporary folder of this machine.

Times are Unix seconds, those of the journal: they are taken from the same clock on both sides.
"""

import contextlib
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import xxhash

from isthmus.agent.__main__ import ADDRESS
from isthmus.agent.children import Child
from isthmus.agent.live import read_address
from isthmus.agent.prepare import write_run
from isthmus.data.dataset import prepare
from isthmus.errors import CorruptError, IsthmusError
from isthmus.faults.inject.messages import InjectReply, InjectRequest
from isthmus.faults.page import PageReader, PageView, Phase
from isthmus.heal.inject import ask
from isthmus.journal.events import AnyEvent, StepDone
from isthmus.journal.reader import Reader
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus.units import Count, Seconds

SITE = "here"
NUM_RANKS = 4
SEQ_LEN = 64
BATCH = 4
POLL_S = 0.01
START_S = 180.0
END_S = 60.0
E = TypeVar("E", bound=AnyEvent)


def run_spec(num_steps: int, *, batch: int = BATCH, checkpoint_every_s: float = 0.0) -> RunSpec:
    """The default model (1.2M parameters) without evaluations on the way; the same steps every time."""
    train = TrainSpec(
        tokens=Count(num_steps * batch * SEQ_LEN),
        batch_size=batch,
        micro_batch_size=1,
        precision="fp32",
        eval_every=Seconds(0),
        eval_sequences=NUM_RANKS,
        checkpoint_every=Seconds(checkpoint_every_s),
    )
    return RunSpec(name="bench", model=ModelSpec(), data=DataSpec(seq_len=SEQ_LEN), train=train)


class Crew(AbstractContextManager["Crew"]):
    """Owns the agent and the folder; everything ends with the block.

    Args:
        spec: what is trained; see `run_spec`.
        env: further variables for the agent and all its processes.
    """

    def __init__(self, spec: RunSpec, *, num_ranks: int = NUM_RANKS, env: dict[str, str] | None = None):
        self.spec, self.num_ranks = spec, num_ranks
        self._root = Path(tempfile.mkdtemp(prefix="isthmus-bench-"))
        self.run = RunDir(self._root / "run")
        self.agent = Child(
            name="agent",
            argv=[sys.executable, "-m", "isthmus.agent", "--run-dir", str(self.run.path), "--site", SITE],
            log=self.run.logs / "agent.log",
            env=env or {},
        )
        self._events: list[AnyEvent] = []
        self._reader: Reader | None = None

    def __enter__(self) -> Self:
        fleet = FleetSpec(sites={SITE: SiteSpec(nodes=[NodeSpec(chips={"cpu": self.num_ranks})])})
        write_run(self.run, self.spec, fleet, make_plan(fleet, self.spec), hosts=None)
        prepare(self.spec.data, self.spec.model.vocab_size)
        self.start()
        return self

    def start(self) -> None:
        """The agent; again after it was killed: it takes over the ranks that train."""
        self.agent.start()

    def __exit__(self, *exc: object) -> None:
        """An agent that was killed leaves its ranks behind: they are ended here, one by one."""
        live = self._live()
        self.agent.signal(signal.SIGQUIT)
        deadline_s = time.monotonic() + 5.0
        while self.agent.alive and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        self.agent.kill()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if live:
            shutil.rmtree(live, ignore_errors=True)
        shutil.rmtree(self._root, ignore_errors=True)

    def events(self) -> list[AnyEvent]:
        """All so far, in the order of their time."""
        if self._reader is None and any(self.run.path.glob("journal/*")):
            self._reader = Reader(self.run.path)
        if self._reader and (fresh := list(self._reader.poll())):
            self._events = sorted([*self._events, *fresh], key=lambda event: event.wall_s)
        return self._events

    def of(self, kind: type[E], after_s: float = 0.0) -> list[E]:
        """Events of one kind later than `after_s`."""
        return [event for event in self.events() if isinstance(event, kind) and event.wall_s > after_s]

    def wait(self, until: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Raises IsthmusError after `timeout_s`, and where the agent has failed meanwhile."""
        deadline_s = time.monotonic() + timeout_s
        while not until():
            if self.agent.exit_code not in (None, 0, -signal.SIGKILL):
                raise IsthmusError(f"the agent failed\n{self.agent.last_words()}", where=str(self.agent.log))
            if time.monotonic() > deadline_s:
                raise IsthmusError(f"no {what} within {timeout_s:g} s\n{self.agent.last_words()}")
            time.sleep(POLL_S)

    def wait_step(self, step: int, timeout_s: float = START_S) -> None:
        """Until the lead has told of this step."""
        self.wait(lambda: self.step >= step, timeout_s, f"step {step}")

    def wait_standby(self, timeout_s: float = START_S) -> None:
        """Until a process without a place is warm."""
        idle = lambda: any(page.phase == Phase.IDLE for page in self.pages())  # noqa: E731
        self.wait(idle, timeout_s, "warm process")

    def wait_end(self, timeout_s: float = END_S) -> int:
        """The agent's exit code."""
        self.wait(lambda: not self.agent.alive, timeout_s, "end of the run")
        return self.agent.exit_code or 0

    @property
    def step(self) -> int:
        """The furthest step that was told; 0: none."""
        return max((event.step for event in self.events() if isinstance(event, StepDone)), default=0)

    @property
    def losses(self) -> dict[int, list[float]]:
        """By step. A step that was told twice has two."""
        found: dict[int, list[float]] = {}
        for event in self.of(StepDone):
            found.setdefault(event.step, []).append(event.loss)
        return found

    def pid(self, rank: int) -> int:
        """Of the process that holds this place now. Raises IsthmusError where none does."""
        for pid, title in self._titles():
            if title.endswith(f"--rank {rank}"):
                return pid
        raise IsthmusError(f"no process holds rank {rank}", where=str(self.run.path))

    def pids(self) -> list[int]:
        """Of all processes of the run, standbys too."""
        return [pid for pid, _ in self._titles()]

    def _titles(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    title = (folder / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
                    if title.startswith(f"isthmus.train --run-dir {self.run.path.absolute()} "):
                        found.append((int(folder.name), title))
        return found

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> float:
        """Returns the time just before."""
        pid = self.pid(rank)
        at_s = time.time()
        os.kill(pid, number)
        return at_s

    def inject(self, *requests: InjectRequest) -> list[InjectReply]:
        """Ask the agent for faults; its answers."""
        return ask(self.run.agent_address(SITE), requests)

    def pages(self) -> list[PageView]:
        """What the processes say in their pages now."""
        live = self._live()
        found: list[PageView] = []
        for path in live.glob("*.page") if live else ():
            with contextlib.suppress(OSError, CorruptError):
                reader = PageReader(path)
                found.append(reader.read())
                reader.close()
        return found

    def _live(self) -> Path | None:
        address = read_address(self.run.site(SITE) / ADDRESS)
        return Path(address.folder) if address else None

    def weights(self) -> str:
        """Hash of the finished model's tensors; '' where there is none."""
        files = sorted(self.run.final.glob("*.safetensors"))
        return xxhash.xxh3_128_hexdigest(b"".join(file.read_bytes() for file in files)) if files else ""


class Undisturbed(msgspec.Struct, frozen=True):
    """What a run of the same spec computes when nothing happens to it."""

    losses: dict[int, float]
    weights: str

    def matches(self, crew: Crew) -> bool:
        """Bit for bit: every step's loss, whenever it was told, and the weights at the end."""
        told = crew.losses
        same = all(set(losses) == {self.losses.get(step)} for step, losses in told.items())
        return same and told.keys() == self.losses.keys() and crew.weights() == self.weights


def undisturbed(spec: RunSpec, num_ranks: int = NUM_RANKS, timeout_s: float = START_S) -> Undisturbed:
    """Trains it to its end."""
    with Crew(spec, num_ranks=num_ranks) as crew:
        crew.wait_end(START_S + timeout_s)
        return Undisturbed({step: losses[-1] for step, losses in crew.losses.items()}, crew.weights())


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that is no less than `share` of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
