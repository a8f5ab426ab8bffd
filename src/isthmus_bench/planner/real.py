"""`planner.real`: step times and memory that `isthmus probe` lets predict, against runs of this machine.

Each case is probed, predicted and trained right after each other, twice trained: how far two identical runs
lie apart is the floor of any error. Others that use the machine meanwhile change its speed between probe and
run; a case during which they took more than `QUIET` of it is taken again, and the quietest attempt counts,
whatever its error.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

import msgspec

from isthmus.planner.make import make_plan
from isthmus.planner.probed.predict import StepEstimate, predict_peak_bytes, predict_step
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, RunSpec, TrainSpec
from isthmus.units import Count, Seconds
from isthmus_bench.document import Result
from isthmus_bench.planner import two_sites
from isthmus_bench.planner.trained import Trained, on_one_core, probe, train

T = TypeVar("T")
QUIET = 0.05
ATTEMPTS = 3
STEPS, QUICK_STEPS = 45, 12

DENSE = ModelSpec(
    vocab_size=4096, hidden_size=256, num_layers=6, num_heads=8, num_kv_heads=4, head_dim=32, ffn_size=688
)
MOE = msgspec.structs.replace(
    DENSE, hidden_size=192, num_heads=6, num_kv_heads=3, ffn_size=512, num_experts=8, top_k=2,
    first_moe_layer=1, expert_ffn_size=256,
)  # fmt: skip


class Case(NamedTuple):
    name: str
    run: RunSpec
    ranks: int = 1
    probed_micro_batch: int = 0
    """0: that of the run."""

    @property
    def prefix(self) -> list[str]:
        """One rank has one core, and two threads of it none to themselves: spinning threads cost what others
        need.
        """
        return on_one_core() if self.ranks == 1 else []

    @property
    def probed(self) -> RunSpec:
        size = self.probed_micro_batch
        return with_train(self.run, micro_batch_size=size) if size else self.run

    @property
    def fleet(self) -> FleetSpec:
        return FleetSpec(sites={"here": SiteSpec(nodes=[NodeSpec(chips={"cpu": self.ranks})])})


class Outcome(NamedTuple):
    case: Case
    predicted: StepEstimate
    runs: list[Trained]
    memory: list[tuple[int, int]]
    """(predicted, measured) bytes of each rank, in the first run."""
    foreign: float

    @property
    def error(self) -> float:
        return abs(self.predicted.step_s / self.runs[0].median_s - 1)


def run(quick: bool) -> list[Result]:
    outcomes = [_quietest(case, quick) for case in cases(quick)]
    results = [_result(outcome) for outcome in outcomes]
    results += two_sites.run(base_run(DENSE, 8, 4), quick)
    worst = max(results, key=lambda result: result.value)
    errors = [abs(predicted / seen - 1) for each in outcomes for predicted, seen in each.memory]
    floor = max(abs(each.runs[1].median_s / each.runs[0].median_s - 1) for each in outcomes)
    whole = Result(
        "planner.real",
        worst.value,
        "ratio",
        {"two identical runs": floor},
        f"largest |predicted / measured - 1|, {worst.id}; steps in the median; {os.cpu_count()} cores",
    )
    memory = Result(
        "planner.memory_real",
        fmean(errors),
        "ratio",
        {"largest": max(errors)},
        f"mean |predicted / measured - 1| of the peak resident set of {len(errors)} ranks",
    )
    return [whole, memory, *results]


def cases(quick: bool) -> list[Case]:
    steps = QUICK_STEPS if quick else STEPS
    dense = base_run(DENSE, 8, 4, steps)
    moe = with_train(base_run(MOE, 8, 4, steps), precision="bf16")
    return [
        Case("one_rank", dense),
        Case("two_ranks", with_train(dense, micro_batch_size=2), ranks=2),
        Case("moe", moe),
        Case("other_micro_batch", with_train(dense, batch_size=12, micro_batch_size=3), probed_micro_batch=4),
    ]


def base_run(model: ModelSpec, batch_size: int, micro_batch: int, steps: int = STEPS) -> RunSpec:
    """Without what happens now and then: evaluations and checkpoints come at the end alone. The precision is
    named, as `auto` may choose otherwise in the run than in the probe where the two are nearly equal.
    """
    data = DataSpec(seq_len=128)
    return RunSpec(
        name="real",
        model=model,
        data=data,
        train=TrainSpec(
            tokens=Count(steps * batch_size * data.seq_len),
            batch_size=batch_size,
            micro_batch_size=micro_batch,
            precision="fp32",
            eval_every=Seconds(0),
            checkpoint_every=Seconds(0),
        ),
    )


def with_train(run: RunSpec, **changes: object) -> RunSpec:
    return msgspec.structs.replace(run, train=msgspec.structs.replace(run.train, **changes))


def _quietest(case: Case, quick: bool) -> Outcome:
    return quietest(lambda: _take(case), lambda outcome: outcome.foreign, 1 if quick else ATTEMPTS)


def quietest(take: Callable[[], T], foreign: Callable[[T], float], attempts: int) -> T:
    """Of up to `attempts`, the first during which others left the machine alone, or else the quietest."""
    taken: list[T] = []
    for _ in range(attempts):
        taken.append(take())
        if foreign(taken[-1]) <= QUIET:
            break
    return min(taken, key=foreign)


def _take(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as name:
        folder = Path(name)
        profile, crowd = probe(case.probed, folder / "probe", case.ranks, case.prefix)
        runs = [train(case.run, case.fleet, folder / f"run{index}", case.prefix) for index in range(2)]
    (site,) = make_plan(case.fleet, case.run).sites
    memory = [
        (predict_peak_bytes(case.run, site, profile, lead=rank == 0, saves=rank == 0), seen)
        for rank, seen in sorted(runs[0].peak_bytes.items())
    ]
    foreign = max(crowd, *(each.foreign for each in runs))
    return Outcome(case, predict_step(case.run, site, profile), runs, memory, foreign)


def _result(outcome: Outcome) -> Result:
    step, first, second = outcome.predicted, *outcome.runs
    parts = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in step.parts.items())
    memory = ", ".join(f"{predicted / 1e6:.0f} of {seen / 1e6:.0f} MB" for predicted, seen in outcome.memory)
    note = (
        f"ms; predicted interval {1000 * step.low_s:.1f} to {1000 * step.high_s:.1f}; {parts}; "
        f"peak memory {memory}; others used {outcome.foreign:.0%} of the machine"
    )
    peers = {
        "predicted, ms": 1000 * step.step_s,
        "measured, ms": 1000 * first.median_s,
        "measured again, ms": 1000 * second.median_s,
    }
    return Result(f"planner.real.{outcome.case.name}", outcome.error, "ratio", peers, note)
