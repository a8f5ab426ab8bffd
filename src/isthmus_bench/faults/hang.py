"""faults.hang.*: ranks that stop getting on, in six ways; and runs in which nothing is wrong.

The rank writes the time into its own log just before the fault: what holds the interpreter lock or stops the
process lets no later word out.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Generator
from statistics import median

import msgspec

from isthmus.faults.inject.kinds import KINDS
from isthmus.faults.inject.messages import InjectRequest
from isthmus.journal.events import CheckpointSaved, EvalDone, Fault
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import RunSpec
from isthmus.units import Seconds
from isthmus_bench.document import Result
from isthmus_bench.faults.crew import NUM_RANKS, Crew, percentile, run_spec
from isthmus_bench.faults.drill import (
    Outcome,
    ask,
    await_fault,
    crew_happened,
    drill,
    judge,
    misnamed,
    subject,
    until,
    wait_healed,
)

WAYS = ("sleep", "stop", "gil", "loader", "mismatch", "missing")
SEED = 6
ENDLESS = 1_000_000
TIMEOUT_S = 30.0
HEAL_S = 60.0
FIRST_STEPS = 5
BUSY_PER_CORE = 3
WIDE = ModelSpec(hidden_size=512, num_layers=4, num_heads=8, num_kv_heads=4, ffn_size=1536)
"""Ten times the state of the default model: its checkpoints stop rank 0 for longer and fill the disk's
queue."""


def run(quick: bool) -> list[Result]:
    """Half an hour; three minutes in quick mode."""
    outcomes = injections(10 if quick else 200, random.Random(SEED))
    return [*_rows(outcomes), false_alarms([20.0] if quick else [150.0, 150.0])]


def soak(quick: bool) -> list[Result]:
    """An hour without a fault; a minute in quick mode."""
    return [false_alarms([30.0, 30.0] if quick else [1800.0, 1800.0])]


def _rows(outcomes: list[Outcome]) -> list[Result]:
    times = [outcome.detect_s for outcome in outcomes]
    missed = sum(time_s == float("inf") for time_s in times)
    worst = ", ".join(f"{way} {max(_times(outcomes, way), default=0):.2f}" for way in WAYS)
    note = (
        f"95th percentile of {len(times)} faults of {NUM_RANKS} ranks on {os.cpu_count()} cores, from the "
        f"fault to the journal's first word; median {median(times):.2f}, longest by kind: {worst} s; "
        f"{missed} not seen"
    )
    named = sum(outcome.named for outcome in outcomes)
    about = f"{named} of {len(outcomes)}, the right rank and no other in the first word"
    if named < len(outcomes):
        about += f"; wrong: {misnamed(outcomes)}"
    return [
        Result("faults.hang.detect_s", percentile(times, 0.95), "s", note=note),
        Result("faults.hang.named", named / len(outcomes), "share", note=about),
    ]


def _times(outcomes: list[Outcome], way: str) -> list[float]:
    return [outcome.detect_s for outcome in outcomes if outcome.kind == way]


def injections(count: int, draws: random.Random) -> list[Outcome]:
    """One after the other in as few runs as possible: a run that does not heal is left for a new one."""
    left = [WAYS[number % len(WAYS)] for number in range(count)]
    outcomes: list[Outcome] = []
    while left:
        with Crew(run_spec(ENDLESS)) as crew:
            crew.wait_step(FIRST_STEPS)
            crew.wait_standby()
            while left:
                begun_s = time.time()
                outcomes.append(_inject(crew, left.pop(0), draws))
                if not wait_healed(crew, begun_s, HEAL_S):
                    break
    return outcomes


def _inject(crew: Crew, way: str, draws: random.Random) -> Outcome:
    """At a random step of a random rank, or at a random instant."""
    rank = draws.randrange(NUM_RANKS)
    never_seen = Outcome(way, rank, float("inf"), False, 0)
    if way == "missing":
        return _miss(crew, rank, draws) or never_seen
    at_step = crew.step + draws.randint(2, 10)
    if KINDS[way].instant and draws.random() < 0.5:
        time.sleep(0.3 * draws.random())
        at_step = -1
    return drill(crew, InjectRequest(rank=rank, kind=way, at_step=at_step), TIMEOUT_S) or never_seen


def _miss(crew: Crew, rank: int, draws: random.Random) -> Outcome | None:
    """The rank stays away from the group that follows the death of another one."""
    victim = draws.choice([other for other in range(NUM_RANKS) if other != rank])
    before = len(crew_happened(crew, rank))
    ask(crew, InjectRequest(rank=rank, kind="missing"))
    time.sleep(0.2 + 0.3 * draws.random())
    crew.kill(victim)
    fault = await_fault(crew, rank, before, TIMEOUT_S)
    if fault is None:
        return None
    died = lambda each: each.subject == subject(victim) and each.kind == "rank_died"  # noqa: E731
    return judge(crew, rank, fault, TIMEOUT_S, died)


def false_alarms(durations_s: list[float]) -> Result:
    """Faults that are told of where there are none; first the small model, then the wide."""
    told: list[Fault] = []
    saves = evaluations = steps = 0
    for duration_s, model in zip(durations_s, (ModelSpec(), WIDE), strict=False):
        with Crew(_restless(model)) as crew:
            crew.wait_step(FIRST_STEPS)
            with contextlib.closing(_crowds(random.Random(SEED))) as crowds:
                end_s = time.monotonic() + duration_s
                until(crew, lambda end_s=end_s, c=crowds: next(c) > end_s, duration_s + 60.0)
            told += crew.of(Fault)
            saves += len(crew.of(CheckpointSaved))
            evaluations += len(crew.of(EvalDone))
            steps += crew.step
    note = (
        f"{sum(durations_s):.0f} s, {steps} steps, {saves} checkpoints, {evaluations} evaluations; "
        f"{BUSY_PER_CORE} busy processes for each core come and go; half of the time with ten times the state"
    )
    if told:
        note += f"; first: {told[0].subject}, {told[0].kind}, {told[0].detail}"
    return Result("faults.hang.false_alarms", len(told), "count", note=note)


def _restless(model: ModelSpec) -> RunSpec:
    spec = run_spec(ENDLESS, checkpoint_every_s=3.0)
    train = msgspec.structs.replace(spec.train, eval_every=Seconds(5.0), eval_sequences=16)
    return msgspec.structs.replace(spec, train=train, model=model)


def _crowds(draws: random.Random) -> Generator[float, None, None]:
    """Busy processes for 1 to 6 s, none for 1 to 6 s, and so on, each time it is asked; the time."""
    busy: list[subprocess.Popen[bytes]] = []
    change_s = time.monotonic()
    try:
        while True:
            if time.monotonic() >= change_s:
                change_s = time.monotonic() + draws.uniform(1.0, 6.0)
                if busy:
                    _end(busy)
                else:
                    count = BUSY_PER_CORE * len(os.sched_getaffinity(0))
                    loop = [sys.executable, "-c", "while True: pass"]
                    busy += [subprocess.Popen(loop) for _ in range(count)]
            yield time.monotonic()
    finally:
        _end(busy)


def _end(busy: list[subprocess.Popen[bytes]]) -> None:
    for process in busy:
        process.kill()
        process.wait()
    busy.clear()
