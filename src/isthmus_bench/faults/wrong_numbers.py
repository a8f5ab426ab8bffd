"""faults.nan.* and faults.sdc.*: a gradient that is not finite, a flipped bit of a parameter. Which rank?"""

import random
import time
from statistics import median

from isthmus.faults.inject.messages import InjectRequest
from isthmus.parallel.bits import HASHED_PARTS
from isthmus_bench.document import Result
from isthmus_bench.faults.crew import NUM_RANKS, Crew, run_spec
from isthmus_bench.faults.drill import Outcome, drill, misnamed, until, wait_healed

SEED = 8
ENDLESS = 1_000_000
FIRST_STEPS = 5
TIMEOUT_S = 60.0
APART_STEPS = 20
"""Between two bad gradients: the first one is over by then."""
EXPONENT_BITS = 8


def run(quick: bool) -> list[Result]:
    draws = random.Random(SEED)
    nans = bad_gradients(4 if quick else 100, draws)
    flips = flipped_bits(3 if quick else 50, draws)
    seen = [outcome.steps for outcome in flips if outcome.said]
    steps = f"median {median(seen):g}; " if seen else ""
    note = (
        f"{steps}of {len(flips)} flips of exponent bits 1 to {EXPONENT_BITS} of one rank's largest value, "
        f"{len(flips) - len(seen)} not found; 1/{HASHED_PARTS} of the parameters is hashed after each step"
    )
    worst = max(seen) if len(seen) == len(flips) else float("inf")
    return [
        _named("faults.nan.named", nans),
        _named("faults.sdc.named", flips),
        Result("faults.sdc.steps", worst, "steps", note=note),
    ]


def _named(name: str, outcomes: list[Outcome]) -> Result:
    right = sum(outcome.named for outcome in outcomes)
    note = f"{right} of {len(outcomes)}, random ranks of {NUM_RANKS} and random steps, seed {SEED}"
    if right < len(outcomes):
        note += f"; wrong: {misnamed(outcomes)}"
    return Result(name, right / len(outcomes), "share", note=note)


def bad_gradients(count: int, draws: random.Random) -> list[Outcome]:
    """NaN in one value of one rank's gradient; the step is left out and training goes on."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        with Crew(run_spec(ENDLESS)) as crew:
            crew.wait_step(FIRST_STEPS)
            while len(outcomes) < count:
                outcomes.append(_spoil(crew, draws))
                apart = crew.step + APART_STEPS
                if not until(crew, lambda apart=apart: crew.step > apart, TIMEOUT_S):
                    break
    return outcomes


def flipped_bits(count: int, draws: random.Random) -> list[Outcome]:
    """The rank that has it is replaced before the next one."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        with Crew(run_spec(ENDLESS)) as crew:
            crew.wait_step(FIRST_STEPS)
            crew.wait_standby()
            while len(outcomes) < count:
                begun_s = time.time()
                outcomes.append(_flip(crew, draws))
                if not wait_healed(crew, begun_s, TIMEOUT_S):
                    break
    return outcomes


def _flip(crew: Crew, draws: random.Random) -> Outcome:
    """After the next step, whatever its number: a site that was rolled back counts from there again."""
    time.sleep(draws.random())
    rank, value = draws.randrange(NUM_RANKS), float(draws.randint(1, EXPONENT_BITS))
    return _asked(crew, InjectRequest(rank=rank, kind="flip", value=value))


def _spoil(crew: Crew, draws: random.Random) -> Outcome:
    rank, at_step = draws.randrange(NUM_RANKS), crew.step + draws.randint(2, 12)
    return _asked(crew, InjectRequest(rank=rank, kind="nan", at_step=at_step))


def _asked(crew: Crew, request: InjectRequest) -> Outcome:
    never_seen = Outcome(request.kind, request.rank, float("inf"), False, 0)
    return drill(crew, request, TIMEOUT_S) or never_seen
