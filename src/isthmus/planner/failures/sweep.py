"""Goodput against one quantity, and what to choose. All points of a sweep see the same failures."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.failures.formulas import daly_interval_s, expected_goodput
from isthmus.planner.failures.job import Job
from isthmus.planner.failures.replay import Outcome, replay

Quantity = Literal["mtbf", "checkpoint", "spares"]
MANY_SPARES = 1_000_000
ENOUGH = 0.99
"""Of the goodput that spares without end would give."""
FACTORS = tuple(2.0 ** (half / 2) for half in range(-8, 9))
"""Of a quantity in a sweep, from a sixteenth to sixteen times."""


class Horizon(msgspec.Struct, frozen=True, kw_only=True):
    """How long, and how often with other failures: seeds `seed`, `seed` + 1, ..."""

    days: float = 30.0
    seed: int = 0
    repeat: int = 1


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One value of what is swept."""

    value: float
    """Seconds, or spares of each site."""
    goodput: float
    """Mean of the repeats."""
    low: float
    """Of the repeats, nine of ten lie between low and high."""
    high: float


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What the replay and the formulas recommend."""

    checkpoint_daly_s: float | None
    """None where it is not the checkpoint that decides what a failure costs (elastic, strict), where there
    is no pause to weigh it against, and where nothing fails."""
    checkpoint_best_s: float | None
    """The best of a sweep around Daly's; None also where no node failed in any replay: then the rarest would
    seem best."""
    goodput_formula: float | None
    """Daly's expectation at the interval in use, with spares without end."""
    spares: int
    """Of each site, for 99 % of the goodput that spares without end would give."""
    goodput_attainable: float
    """With spares without end."""


def repeat(job: Job, horizon: Horizon) -> list[Outcome]:
    """One outcome per seed. Raises InputError for less than one repeat."""
    if horizon.repeat < 1:
        raise InputError(f"{horizon.repeat} repeats", where="repeat", hint="at least 1")
    return [replay(job, horizon.days, horizon.seed + i) for i in range(horizon.repeat)]


def measure(job: Job, horizon: Horizon, value: float) -> Point:
    """The point at `value`, which `job` already has."""
    found = [outcome.goodput for outcome in repeat(job, horizon)]
    low, high = np.quantile(found, (0.05, 0.95))
    return Point(value=value, goodput=float(np.mean(found)), low=float(low), high=float(high))


def sweep(job: Job, quantity: Quantity, horizon: Horizon, values: Sequence[float] = ()) -> list[Point]:
    """Goodput at each of the values; without any, around what the job has."""
    change = _CHANGES[quantity]
    return [measure(change(job, value), horizon, value) for value in values or _values(job, quantity)]


def advise(job: Job, horizon: Horizon) -> Advice:
    """Checkpoint interval and spares for this job."""
    attainable = measure(with_spares(job, MANY_SPARES), horizon, MANY_SPARES).goodput
    pause_s = max(site.checkpoint_pause_s for site in job.sites)
    recovery_s = max(site.recovery_s for site in job.sites)
    is_weighed = job.mode == "none" and pause_s > 0
    daly_s = daly_interval_s(pause_s, job.mtbf_s) if is_weighed else None
    is_tried = any(outcome.failures for outcome in repeat(job, horizon))
    around = sweep(job, "checkpoint", horizon, _around(job, daly_s)) if daly_s and is_tried else []
    formula = None
    if job.mode == "none" and job.interval_s:
        formula = expected_goodput(job.interval_s, pause_s, recovery_s, job.mtbf_s)
    return Advice(
        checkpoint_daly_s=daly_s,
        checkpoint_best_s=max(around, key=_merit).value if around else None,
        goodput_formula=formula,
        spares=enough_spares(job, horizon, attainable),
        goodput_attainable=attainable,
    )


def _merit(point: Point) -> tuple[float, float]:
    """Of those that are equal, the rarest."""
    return point.goodput, point.value


def enough_spares(job: Job, horizon: Horizon, attainable: float) -> int:
    """The fewest spares of each site that give 99 % of `attainable`, by halving: more never hurt."""

    def is_enough(spares: int) -> bool:
        return measure(with_spares(job, spares), horizon, spares).goodput >= ENOUGH * attainable

    high = 0
    while not is_enough(high):
        high = 2 * high or 1
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def with_spares(job: Job, spares: float) -> Job:
    """So many at each site."""
    return replace(job, sites=[replace(site, spares=int(spares)) for site in job.sites])


def with_mtbf(job: Job, node_mtbf_s: float) -> Job:
    """The mean node's MTBF, each site's in the same proportion as before."""
    factor = node_mtbf_s / mean_node_mtbf_s(job)
    return replace(job, sites=[replace(site, mtbf_s=factor * site.mtbf_s) for site in job.sites])


def with_checkpoint(job: Job, every_s: float) -> Job:
    return replace(job, checkpoint_every_s=every_s)


def mean_node_mtbf_s(job: Job) -> float:
    """Harmonic over all nodes: failure rates add up."""
    return sum(site.nodes for site in job.sites) * job.mtbf_s


def _around(job: Job, middle_s: float) -> list[float]:
    """Intervals that can be kept: whole steps, none shorter than the writing of a checkpoint."""
    return sorted({with_checkpoint(job, middle_s * factor).interval_s for factor in FACTORS})


def _values(job: Job, quantity: Quantity) -> list[float]:
    if quantity == "mtbf":
        return [mean_node_mtbf_s(job) * factor for factor in FACTORS]
    if quantity == "checkpoint":
        pause_s = max(site.checkpoint_pause_s for site in job.sites)
        middle_s = daly_interval_s(pause_s, job.mtbf_s) if pause_s else job.checkpoint_every_s or 600.0
        return _around(job, middle_s)
    present = max(site.spares for site in job.sites)
    return [float(spares) for spares in sorted({*range(9), 12, 16, 24, 32, present})]


_CHANGES: dict[Quantity, Callable[[Job, float], Job]] = {
    "mtbf": with_mtbf,
    "checkpoint": with_checkpoint,
    "spares": with_spares,
}
