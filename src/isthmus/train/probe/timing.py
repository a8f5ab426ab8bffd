"""Robust timing of repeated work: warm-up, enough repetitions, median and spread."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from isthmus.chips import Chip

SHORTEST_S = 1e-3
"""A repetition that takes less is done several times between two marks."""
FEWEST, MOST = 5, 40


def spread_of(values: Sequence[float]) -> float:
    """Standard deviation of the logarithm, by the median absolute deviation: single outliers do not count."""
    logs = [math.log(value) for value in values if value > 0]
    if len(logs) < 2:
        return 0.0
    middle = median(logs)
    return 1.4826 * median(abs(value - middle) for value in logs)


def time_work(chip: Chip, work: Callable[[], object], budget_s: float) -> tuple[float, float]:
    """(median seconds of one call, spread) over about `budget_s`.

    Not for collectives, as ranks may differ in the number of calls: see `time_calls`.
    """
    once_s = max(1e-7, min(time_calls(chip, work, 1, 3)))
    calls = max(1, math.ceil(SHORTEST_S / once_s))
    samples = int(max(FEWEST, min(MOST, budget_s / (calls * once_s))))
    times = time_calls(chip, work, calls, samples)
    return median(times), spread_of(times)


def time_calls(chip: Chip, work: Callable[[], object], calls: int, samples: int) -> list[float]:
    """Seconds of one call in each of `samples` rows of `calls` calls; one call before is not counted."""
    work()
    marks = [chip.mark()]
    for _ in range(samples):
        for _ in range(calls):
            work()
        marks.append(chip.mark())
    chip.synchronize()
    return [chip.seconds(start, end) / calls for start, end in pairwise(marks)]


def elapsed_s(work: Callable[[], object]) -> float:
    """By the wall clock, once."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
