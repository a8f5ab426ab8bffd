"""Detectors, measured: what a page costs a rank, how soon a slow rank is found, how often none is there.

Each function returns figures; series are simulated from seeds, so that they are the same everywhere.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.slow import SlowDetector
from isthmus.faults.detect.standing import Standing
from isthmus.faults.page import PageReader, PageWriter, Phase, StepRecord
from isthmus_bench.document import Result

_BLOCK = 5
"""Steps per look: 10 ms steps at 20 Hz."""


def run(quick: bool) -> list[Result]:
    """Rows `faults.detect.*`."""
    cost = msgspec.to_builtins(page_cost(num_calls=1000 if quick else 20_000))
    dearest = max((name for name in cost if name != "read"), key=lambda name: cost[name])
    results = [
        Result("faults.detect.page_ns", cost[dearest], "ns", note=f"the dearest write, {dearest}"),
        Result("faults.detect.read_us", cost["read"] / 1000, "us", note="a look at one page"),
    ]
    for sigma in (0.03, 0.10):
        delay = slow_delay(sigma, num_seeds=10 if quick else 200)
        alarms = slow_false_alarms(sigma, num_steps=10_000 if quick else 100_000)
        note = f"1.2x on one of four; median {delay.median_steps:g}, {delay.missed} missed"
        percent = round(100 * sigma)
        results += [
            Result(f"faults.detect.slow_p95.noise{percent}", delay.p95_steps, "steps", note=note),
            Result(f"faults.detect.slow_false.noise{percent}", alarms, "per 10^4 steps"),
        ]
    return results


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """Of compute times; all as log-normal factors."""

    sigma: float = 0.05
    spike_share: float = 0.01
    """Steps of a rank that take twice as long."""
    burst_share: float = 0.01
    """Steps at which a burst begins that slows all ranks alike, for 20 steps."""
    outlier_share: float = 0.001
    """Steps of a rank that take 1 to 10 times as long."""


def compute_times(seed: int, num_steps: int, ratios: tuple[float, ...], noise: Noise) -> np.ndarray:
    """float64[num_steps, ranks], seconds."""
    random = np.random.default_rng(seed)
    shape = (num_steps, len(ratios))
    times_NR = 0.1 * np.array(ratios) * np.exp(noise.sigma * random.standard_normal(shape))
    times_NR[random.random(shape) < noise.spike_share] *= 2
    times_NR *= np.where(random.random(shape) < noise.outlier_share, 1 + 9 * random.random(shape), 1)
    for start in np.flatnonzero(random.random(num_steps) < noise.burst_share):
        times_NR[start : start + 20] *= 1 + 2 * random.random()
    return times_NR


class SlowRun(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector said of a series."""

    alarms: tuple[tuple[int, int], ...]
    """Step and rank."""
    ended: int


def watch_slow(times_NR: np.ndarray) -> SlowRun:
    """Feeds compute times to the detector, a few steps at a look."""
    standing = Standing()
    detector = SlowDetector(standing)
    ranks = tuple(range(times_NR.shape[1]))
    alarms: list[tuple[int, int]] = []
    for start in range(0, len(times_NR), _BLOCK):
        block = times_NR[start : start + _BLOCK]
        steps = {
            rank: [StepRecord(start + n, float(row[rank]), 0.0, 0.0, 0.0, 0.0) for n, row in enumerate(block)]
            for rank in ranks
        }
        for finding in detector.observe(0.01 * start, Readings(ranks=ranks, steps=steps)):
            assert finding.rank is not None
            alarms.append((start + len(block) - 1, finding.rank))
    return SlowRun(alarms=tuple(alarms), ended=len(standing.take_ended()))


class SlowDelay(msgspec.Struct, frozen=True, kw_only=True):
    median_steps: float
    p95_steps: float
    missed: int
    wrong_rank: int


def slow_delay(
    sigma: float, *, ratio: float = 1.2, num_seeds: int = 200, before: int = 500, after: int = 200
) -> SlowDelay:
    """Steps from when one of four ranks becomes `ratio` times as slow until it is named; `before` steps
    before.
    """
    delays: list[int] = []
    missed = wrong = 0
    for seed in range(num_seeds):
        times_NR = compute_times(seed, before + after, (1.0, 1.0, 1.5, 1.0), Noise(sigma=sigma))
        slow = seed % 4
        times_NR[before:, slow] *= ratio
        late = [alarm for alarm in watch_slow(times_NR).alarms if alarm[0] >= before]
        wrong += any(rank != slow for _, rank in late)
        hits = [step - before + 1 for step, rank in late if rank == slow]
        missed += not hits
        delays += hits[:1]
    return SlowDelay(
        median_steps=median(delays),
        p95_steps=float(np.percentile(delays, 95)),
        missed=missed,
        wrong_rank=wrong,
    )


def slow_false_alarms(sigma: float, *, num_steps: int = 100_000, seed: int = 0) -> float:
    """Per 10^4 steps of a group of four."""
    times_NR = compute_times(seed, num_steps, (1.0, 1.0, 1.5, 1.0), Noise(sigma=sigma))
    return len(watch_slow(times_NR).alarms) * 1e4 / num_steps


class PageCost(msgspec.Struct, frozen=True, kw_only=True):
    """Nanoseconds per call, the median of `repeats` runs; of a read of everything too."""

    phase: float
    issue: float
    wait: float
    resume: float
    end_step: float
    hashed: float
    read: float


def page_cost(*, num_calls: int = 20_000, repeats: int = 7) -> PageCost:
    with tempfile.TemporaryDirectory() as folder:
        page = PageWriter(Path(folder) / "page")
        reader = PageReader(Path(folder) / "page")
        calls = {
            "phase": lambda: page.phase(Phase.FORWARD),
            "issue": lambda: page.issue(12345),
            "wait": lambda: page.wait(7),
            "resume": lambda: page.resume(7),
            "end_step": lambda: page.end_step(7),
            "hashed": lambda: page.hashed(7, 3, 1 << 60),
            "read": lambda: reader.read(),
        }
        return PageCost(**{name: _cost_ns(call, num_calls, repeats) for name, call in calls.items()})


def _cost_ns(call, num_calls: int, repeats: int) -> float:
    def once() -> float:
        begin_ns = time.perf_counter_ns()
        for _ in range(num_calls):
            call()
        return (time.perf_counter_ns() - begin_ns) / num_calls

    return median(once() for _ in range(repeats))
