"""A fault is asked for, one after the other in the same run, each healed before the next: when it happened,
what was said of it first, and of whom.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from isthmus.errors import IsthmusError
from isthmus.faults.inject.messages import InjectRequest
from isthmus.faults.page import Phase
from isthmus.journal.events import Fault, Healed, StepDone
from isthmus_bench.faults.crew import SITE, Crew

SETTLED_STEPS = 4
"""After a group was made anew: from then on a silence of any rank is judged by the usual bounds."""
POLL_S = 0.05
_TOGETHER_S = 0.02
_SETTLE_S = 0.5
"""Until the lead's journal has told of the steps before."""
_LINE = re.compile(r"^drill: (\w+) after (-?\d+) steps at ([\d.]+)$", re.MULTILINE)


class Happened(msgspec.Struct, frozen=True):
    """A fault as the rank itself wrote it down, just before."""

    kind: str
    steps: int
    """Optimizer steps that it had done."""
    at_s: float


class Outcome(msgspec.Struct, frozen=True):
    kind: str
    rank: int
    detect_s: float
    """From the fault to the first word about it; inf: there was none."""
    named: bool
    """That word named this rank and no other."""
    steps: int
    """From the fault to the first word, optimizer steps of the group."""
    said: str = ""


def happened(log: Path) -> list[Happened]:
    """All faults of the processes that wrote to this log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return [Happened(kind, int(steps), float(at)) for kind, steps, at in _LINE.findall(text)]


def first_said(faults: Sequence[Fault], at_s: float) -> list[Fault]:
    """The first faults told of after `at_s`: those of one finding, one for each that it names."""
    after = sorted((fault for fault in faults if fault.wall_s >= at_s), key=lambda fault: fault.wall_s)
    return [fault for fault in after if fault.wall_s <= after[0].wall_s + _TOGETHER_S]


def never(fault: Fault) -> bool:
    return False


def subject(rank: int) -> str:
    """What the journal calls it."""
    return f"rank-{SITE}-{rank}"


def until(crew: Crew, there: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came, within the time and while the agent lives."""
    deadline_s = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > deadline_s or not crew.agent.alive:
            return False
        time.sleep(POLL_S)
    return True


def drill(crew: Crew, request: InjectRequest, timeout_s: float) -> Outcome | None:
    """Asks for the fault and waits for the first word about a rank after it. None: it never happened."""
    before = len(crew_happened(crew, request.rank))
    ask(crew, request)
    fault = await_fault(crew, request.rank, before, timeout_s)
    return judge(crew, request.rank, fault, timeout_s) if fault else None


def ask(crew: Crew, request: InjectRequest) -> None:
    (reply,) = crew.inject(request)
    if not reply.ok:
        raise IsthmusError(f"the agent refused the fault: {reply.text}")


def crew_happened(crew: Crew, rank: int) -> list[Happened]:
    return happened(crew.run.logs / f"{subject(rank)}.log")


def await_fault(crew: Crew, rank: int, before: int, timeout_s: float) -> Happened | None:
    """The rank's fault number `before`."""
    until(crew, lambda: len(crew_happened(crew, rank)) > before, timeout_s)
    return next(iter(crew_happened(crew, rank)[before:]), None)


def judge(
    crew: Crew, rank: int, fault: Happened, timeout_s: float, expected: Callable[[Fault], bool] = never
) -> Outcome:
    """Args:
    expected: picks faults that are no word about this one.
    """

    def said() -> list[Fault]:
        others = [each for each in crew.of(Fault, fault.at_s) if is_verdict(each) and not expected(each)]
        return first_said(others, fault.at_s)

    if not until(crew, lambda: bool(said()), timeout_s):
        return Outcome(fault.kind, rank, float("inf"), False, 0)
    time.sleep(_SETTLE_S)
    first = said()
    done = [event.step for event in crew.of(StepDone) if event.wall_s <= first[0].wall_s]
    return Outcome(
        kind=fault.kind,
        rank=rank,
        detect_s=first[0].wall_s - fault.at_s,
        named=[each.subject for each in first] == [subject(rank)],
        steps=(done[-1] if done else 0) - fault.steps,
        said=f"{first[0].subject}: {first[0].kind}, {first[0].detail}",
    )


def is_verdict(fault: Fault) -> bool:
    """It is the agent's (a rank tells of faults too, but names none) and no warning of a slow rank, which is
    no word about these faults and is counted where nothing is wrong.
    """
    return fault.source.startswith("agent/") and fault.kind != "fail_slow"


def wait_healed(crew: Crew, at_s: float, timeout_s: float) -> bool:
    """Until the group has trained on since `at_s`, and a process is warm for the next fault."""
    if not until(crew, lambda: bool(crew.of(Healed, at_s)), timeout_s):
        return False
    settled = crew.of(Healed, at_s)[-1].step + SETTLED_STEPS
    return until(crew, lambda: crew.step >= settled and is_covered(crew), timeout_s)


def is_covered(crew: Crew) -> bool:
    """A process is warm and has no place."""
    return any(page.phase == Phase.IDLE for page in crew.pages())


def rank_pids(crew: Crew) -> list[int]:
    """Of all that hold a place, in its order."""
    found: list[int] = []
    for rank in range(crew.num_ranks):
        with contextlib.suppress(IsthmusError):
            found.append(crew.pid(rank))
    return found


def standby_pids(crew: Crew) -> list[int]:
    """Of all that hold none."""
    placed = rank_pids(crew)
    return [pid for pid in crew.pids() if pid not in placed]


def nursery_pids(crew: Crew) -> list[int]:
    """Children of the agent that fork ranks."""
    agent = crew.agent.process.pid if crew.agent.process else 0
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent and b"isthmus.train.nursery" in words:
                found.append(int(folder.name))
    return found


def misnamed(outcomes: Sequence[Outcome]) -> str:
    """For a note: what was said where it was wrong, the first three."""
    wrong = [
        f"{each.kind} of rank {each.rank} -> {each.said or 'nothing'}" for each in outcomes if not each.named
    ]
    return "; ".join(wrong[:3])
