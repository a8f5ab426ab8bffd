"""Seeded chance: when nodes fail and lines are slow. Common random numbers for whatever is compared.

Failures of n nodes with exponential lives are a Poisson process of rate n / MTBF, each on a node drawn
evenly. The process is read off a fixed field of points over (time, rate): a point counts if it lies below the
rate. So a higher MTBF leaves out failures and moves none, and no site's failures depend on another's.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOWEST = -40
"""The lowest band of the field reaches up to 2^-40 per second, once in 35,000 years; each further one doubles
that."""
MARGIN = 6.0
"""Standard deviations by which the first draw of a band exceeds its mean."""


class Strikes(NamedTuple):
    """Times in seconds, ascending, and for each an even draw from [0, 1)."""

    times_s: NDArray[np.float64]
    marks: NDArray[np.float64]


def strikes(seed: int, name: str, rate_per_s: float, end_s: float) -> Strikes:
    """A Poisson process of `rate_per_s` on [0, end_s). Those of another name are independent of it.

    The same seed and name at a lower rate give a subset, to a later end a continuation.
    """
    if rate_per_s <= 0:
        return Strikes(np.empty(0), np.empty(0))
    highest = max(LOWEST, math.ceil(math.log2(rate_per_s)))
    bands = [_band(seed, name, band, end_s) for band in range(LOWEST, highest + 1)]
    rows = np.concatenate(bands)
    rows = rows[rows[:, 1] < rate_per_s]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Strikes(rows[:, 0], rows[:, 2])


def _band(seed: int, name: str, band: int, end_s: float) -> NDArray[np.float64]:
    """Rows (time, height, mark) of the field's points between two powers of two, up to `end_s`."""
    low, high = (0.0 if band == LOWEST else 2.0 ** (band - 1)), 2.0**band
    width = high - low
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), band - LOWEST])
    mean, parts, reached_s = width * end_s, [], 0.0
    size = math.ceil(mean + MARGIN * math.sqrt(mean) + 1)
    while reached_s < end_s:
        rows = generator.random((size, 3))
        rows[:, 0] = reached_s + np.cumsum(-np.log1p(-rows[:, 0])) / width
        rows[:, 1] = low + width * rows[:, 1]
        reached_s = float(rows[-1, 0])
        parts.append(rows)
    found = np.concatenate(parts)
    return found[found[:, 0] < end_s]


def episodes(seed: int, name: str, per_day: float, mean_s: float, end_s: float) -> list[tuple[float, float]]:
    """(start, end) of slow times, ascending; those that overlap are one. Lengths are exponential."""
    starts = strikes(seed, name, per_day / 86_400, end_s)
    merged: list[tuple[float, float]] = []
    for start, mark in zip(starts.times_s.tolist(), starts.marks.tolist(), strict=True):
        end = start - mean_s * math.log1p(-mark)
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged
