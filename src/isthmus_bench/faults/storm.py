"""faults.storm.*: processes of a site are killed all the time, at any instant; it must compute what it would
have computed.

Each kill falls on a random instant of its own stretch of steps, so that all of them fall into the run: on a
rank, seldom on a warm process without a place or on the nursery, and sometimes on another rank shortly after,
while the group is being made anew. Checkpoints are written every few seconds, so some fall into a save.
"""

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec

from isthmus.journal.events import CheckpointSaved, StepDone
from isthmus_bench.document import Result
from isthmus_bench.faults.crew import NUM_RANKS, Crew, Undisturbed, run_spec, undisturbed
from isthmus_bench.faults.drill import POLL_S, nursery_pids, rank_pids, standby_pids, until

SEED = 4
STEPS_EACH = 60
"""Of a stretch with one kill."""
FIRST_STEPS = 20
SAVE_EVERY_S = 3.0
TARGET_EVERY_S = 30.0
"""Between two kills, for which the share of useful time is told."""
STEP_S = 0.1
TIMEOUT_S = 120.0
SOAK_S = 3600.0

Victim = Literal["rank", "standby", "nursery"]


class Blow(msgspec.Struct, frozen=True):
    """What is to be killed and when."""

    step: int
    delay_s: float
    """After that step."""
    victim: Victim
    rank: int
    again_s: float = -1.0
    """After that, another rank; -1: none."""


def plan(count: int, draws: random.Random, steps_each: int = STEPS_EACH) -> list[Blow]:
    """One in each stretch of steps, in their order."""
    blows: list[Blow] = []
    for number in range(count):
        again = draws.random() < 0.2
        victim = draws.choices(("rank", "standby", "nursery"), (0.84, 0.08, 0.08))[0]
        blows.append(
            Blow(
                step=FIRST_STEPS + number * steps_each + draws.randrange(steps_each),
                delay_s=STEP_S * draws.random(),
                victim=victim,
                rank=draws.randrange(NUM_RANKS),
                again_s=0.6 * draws.random() if again and victim == "rank" else -1.0,
            )
        )
    return blows


def run(quick: bool) -> list[Result]:
    """Twenty minutes; half of one in quick mode."""
    count, steps_each = (5, STEPS_EACH // 2) if quick else (100, STEPS_EACH)
    return storm(plan(count, random.Random(SEED), steps_each), FIRST_STEPS + (count + 1) * steps_each)


def soak(quick: bool) -> list[Result]:
    """One kill every 30 s for an hour, as the step time of an undisturbed run has it; half a minute of it in
    quick mode.
    """
    step_s = _pace()
    steps_each = round(TARGET_EVERY_S / step_s)
    count = 1 if quick else round(SOAK_S / TARGET_EVERY_S)
    return storm(plan(count, random.Random(SEED), steps_each), FIRST_STEPS + (count + 1) * steps_each)


def _pace() -> float:
    with Crew(run_spec(1_000_000, checkpoint_every_s=SAVE_EVERY_S)) as crew:
        crew.wait_standby()
        crew.wait_step(crew.step + 100)
        return median(event.step_s for event in crew.of(StepDone)[-100:])


def storm(blows: Sequence[Blow], steps: int) -> list[Result]:
    spec = run_spec(steps, checkpoint_every_s=SAVE_EVERY_S)
    truth = undisturbed(spec, timeout_s=steps)
    with Crew(spec) as crew:
        crew.wait_step(FIRST_STEPS // 2)
        crew.wait_standby()
        killed = [at_s for blow in blows for at_s in _strike(crew, blow)]
        code = crew.wait_end(TIMEOUT_S + steps)
        time.sleep(POLL_S)
        return _rows(crew, truth, blows, killed, code)


def _strike(crew: Crew, blow: Blow) -> list[float]:
    """When processes were killed. A stretch in which nothing is left to kill has none."""
    if not until(crew, lambda: crew.step >= blow.step, TIMEOUT_S):
        return []
    time.sleep(blow.delay_s)
    pids = {"rank": rank_pids, "standby": standby_pids, "nursery": nursery_pids}
    killed = [time.time()] if kill_one(pids[blow.victim](crew), blow.rank) else []
    if blow.again_s >= 0:
        time.sleep(blow.again_s)
        killed += [time.time()] if kill_one(rank_pids(crew), blow.rank + 1) else []
    return killed


def kill_one(pids: Sequence[int], number: int) -> bool:
    """Whether there was one."""
    with contextlib.suppress(ProcessLookupError):
        if pids:
            os.kill(pids[number % len(pids)], signal.SIGKILL)
            return True
    return False


def _rows(
    crew: Crew, truth: Undisturbed, blows: Sequence[Blow], killed: Sequence[float], code: int
) -> list[Result]:
    same = truth.matches(crew)
    done = crew.of(StepDone)
    lost = lost_seconds(done, killed)
    wall_s = done[-1].wall_s - done[0].wall_s
    each_s = sum(lost) / max(1, len(killed))
    others = sum(blow.victim != "rank" for blow in blows)
    saves = len(crew.of(CheckpointSaved))
    note = (
        f"{len(killed)} kills of {NUM_RANKS} ranks ({others} of standbys or the nursery), one in "
        f"{wall_s / max(1, len(killed)):.1f} s, {saves} checkpoints, seed {SEED}; all {len(done)} losses and "
        f"the final weights against those of an undisturbed run, bit for bit; exit code {code}"
    )
    scaled = 1 - each_s / TARGET_EVERY_S
    about = (
        f"computed: 1 - lost / {TARGET_EVERY_S:.0f} s; a kill cost {each_s:.2f} s on the mean, "
        f"{max(lost, default=0):.2f} at most, from the last step before it to the first one after it, less a "
        f"usual step. As it was run, with a kill every {wall_s / max(1, len(killed)):.1f} s: "
        f"{1 - sum(lost) / wall_s:.3f}"
    )
    return [
        Result("faults.storm.identical", float(same), "share", note=note),
        Result("faults.storm.ettr", scaled, "share", note=about),
    ]


def lost_seconds(done: Sequence[StepDone], killed: Sequence[float]) -> list[float]:
    """What each gap between two steps in which there was a kill took beyond a usual one."""
    times = sorted({event.step: event.wall_s for event in reversed(done)}.values())
    gaps = list(itertools.pairwise(times))
    if not gaps:
        return []
    usual_s = median(end - start for start, end in gaps)
    hit = [(start, end) for start, end in gaps if any(start - usual_s <= at_s < end for at_s in killed)]
    return [max(0.0, end - start - usual_s) for start, end in hit]
