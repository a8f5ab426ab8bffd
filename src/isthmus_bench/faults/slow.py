"""faults.slow.*: one rank of four computes 1.2 times as long as before.

Real ranks share the machine's cores: each has a control group with the same part of them, so that one that
waits gives nothing to the others. How often a rank is called slow that is not takes more steps than can be
run: those are simulated (`detect.py`), with a noise of 3 and of 10 %.
"""

import contextlib
import os
import random
from collections.abc import Iterator
from statistics import median

from isthmus.faults.inject.messages import InjectRequest
from isthmus.journal.events import Fault, StepDone
from isthmus_bench.document import Result
from isthmus_bench.faults.crew import NUM_RANKS, Crew, run_spec
from isthmus_bench.faults.detect import slow_false_alarms
from isthmus_bench.faults.drill import ask, await_fault, crew_happened, first_said, subject, until
from isthmus_bench.quota import can_use_quotas, quota

SEED = 12
ENDLESS = 1_000_000
RATIO = 1.2
BATCH = 32
"""Eight rows for each rank: steps of some tenths of a second."""
SHARE = 0.8
"""Of the machine for all ranks together; the rest is for the agent and whatever else runs."""
USUAL_STEPS = 40
"""Before each time: a rank's usual pace is learnt in 20."""
LIMIT_STEPS = 150
TIMEOUT_S = 300.0


def run(quick: bool) -> list[Result]:
    found, wrong, watched = detections(1 if quick else 12, random.Random(SEED))
    steps = 10_000 if quick else 200_000
    alarms = {sigma: slow_false_alarms(sigma, num_steps=steps) for sigma in (0.03, 0.10)}
    missed = found.count(LIMIT_STEPS)
    how = f"{NUM_RANKS} ranks of one thread, "
    how += f"{SHARE * _cores() / NUM_RANKS:.2f} cores each" if can_use_quotas() else "without quotas"
    note = (
        f"median of {len(found)} times that one rank became {RATIO} times as slow, longest {max(found)}, "
        f"{missed} not seen within {LIMIT_STEPS}; {how}; {wrong} wrong words in these {watched} steps"
    )
    peers = {f"simulated, noise {sigma:.0%}": rate for sigma, rate in alarms.items()}
    simulated = f"simulated: {steps} steps of four ranks for each noise, with bursts and outliers; the worse"
    return [
        Result("faults.slow.steps", median(found), "steps", note=note),
        Result("faults.slow.false_alarms", max(alarms.values()), "per 10^4 steps", peers, simulated),
    ]


def detections(count: int, draws: random.Random) -> tuple[list[int], int, int]:
    """Steps until the rank was named, each time; wrong words; steps in all. A rank that was slow is as fast
    as before again, and known to be so, before the next.
    """
    found: list[int] = []
    with Crew(run_spec(ENDLESS, batch=BATCH)) as crew:
        crew.wait_step(3)
        crew.wait_standby()
        with _quotas(crew):
            since_s = crew.of(StepDone)[-1].wall_s
            began = crew.step
            while len(found) < count:
                calm = crew.step + USUAL_STEPS
                until(crew, lambda calm=calm: crew.step >= calm, TIMEOUT_S)
                found.append(_slow_down(crew, draws.randrange(NUM_RANKS)))
                if len(found) < count:  # it has to be known to be as fast as before
                    usual = crew.step + USUAL_STEPS
                    until(crew, lambda usual=usual: crew.step >= usual, TIMEOUT_S)
        said = [fault for fault in crew.of(Fault, since_s) if fault.kind == "fail_slow"]
        right = sum(steps < LIMIT_STEPS for steps in found)
        return found, len(said) - right, crew.step - began


def _slow_down(crew: Crew, rank: int) -> int:
    before = len(crew_happened(crew, rank))
    ask(crew, InjectRequest(rank=rank, kind="slow", value=RATIO))
    fault = await_fault(crew, rank, before, TIMEOUT_S)
    if fault is None:
        return LIMIT_STEPS
    mine = lambda: [f for f in crew.of(Fault, fault.at_s) if f.subject == subject(rank)]  # noqa: E731
    until(crew, lambda: bool(mine()) or crew.step >= fault.steps + LIMIT_STEPS, TIMEOUT_S)
    said = first_said(mine(), fault.at_s)
    ask(crew, InjectRequest(rank=rank, kind="slow", value=1.0))
    if not said:
        return LIMIT_STEPS
    done = max(event.step for event in crew.of(StepDone) if event.wall_s <= said[0].wall_s)
    return done - fault.steps


@contextlib.contextmanager
def _quotas(crew: Crew) -> Iterator[None]:
    """Each rank in a control group of its own, where the system lets us."""
    with contextlib.ExitStack() as stack:
        for rank in range(NUM_RANKS) if can_use_quotas() else ():
            group = stack.enter_context(quota(SHARE * _cores() / NUM_RANKS))
            group.add(crew.pid(rank))
        yield


def _cores() -> int:
    return len(os.sched_getaffinity(0))
