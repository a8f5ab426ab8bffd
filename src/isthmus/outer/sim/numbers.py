"""The simulated model: six numbers whose sums prove that every sample's influence was merged once.

Elements 0-2 only ever add up: training on sample i subtracts (1, i, i*i). Elements 3-5 depend on the order of
everything (they stand for a real loss landscape) and go through weights, momentum and the partial-quorum
rule. All of it is quantised on both legs, so a delta applied to the wrong base or a lost error feedback
shows.
"""

import numpy as np
from numpy.typing import NDArray

from isthmus.outer.ranges import Ranges

Vector = NDArray[np.float64]

WIDTH = 6
EXACT = 3
UP_STEP = np.array([4.0, 4.0, 4.0, 2.0**-12, 2.0**-12, 2.0**-12])
DOWN_STEP = np.array([2.0, 2.0, 2.0, 2.0**-14, 2.0**-14, 2.0**-14])
MOMENTUM = 0.5
PULL = np.array([0.05, 0.1, 0.4])
LR = 0.7


def zeros() -> Vector:
    return np.zeros(WIDTH)


def value(ranges: Ranges) -> Vector:
    """What training on these samples adds to the exact half of a pseudo-gradient."""
    count = first = second = 0
    for start, end in ranges:
        count += end - start
        first += (end * (end - 1) - start * (start - 1)) // 2
        second += ((end - 1) * end * (2 * end - 1) - (start - 1) * start * (2 * start - 1)) // 6
    return np.array([count, first, second], float)


def train(local: Vector, ranges: Ranges) -> None:
    """One inner step, in place: exact parts by `value`, the others towards a target that depends on the
    sample."""
    local[:EXACT] -= value(ranges)
    local[EXACT:] += 0.05 * (PULL * (ranges[0][0] % 17 - 8) - local[EXACT:])


def quantise(values: Vector, step: Vector) -> Vector:
    return np.rint(values / step) * step


class Master:
    """Server-side numbers: exact master M, published G, momentum u, partial-quorum accumulator."""

    __slots__ = ("accumulated", "deltas", "master", "momentum", "progress", "published", "version")

    def __init__(self) -> None:
        self.master, self.published = zeros(), zeros()
        self.momentum, self.accumulated = np.zeros(WIDTH - EXACT), np.zeros(WIDTH - EXACT)
        self.progress = 0.0
        self.version = 0
        self.deltas: dict[int, Vector] = {}

    def copy(self) -> "Master":
        twin = Master()
        twin.master, twin.published = self.master.copy(), self.published.copy()
        twin.momentum, twin.accumulated = self.momentum.copy(), self.accumulated.copy()
        twin.progress, twin.version = self.progress, self.version
        return twin

    def merge(self, pushed: list[Vector], weights: tuple[float, ...], share: float, full: bool) -> str:
        """Advances by one version; returns the hash of the published parameters."""
        mean = np.zeros(WIDTH - EXACT)
        whole = sum(weights)
        for vector, weight in zip(pushed, weights, strict=True):
            self.master[:EXACT] -= vector[:EXACT]
            mean += vector[EXACT:] * (weight / whole)
        if full and self.progress == 0.0:
            self.momentum = MOMENTUM * self.momentum + mean
            self.master[EXACT:] -= LR * (mean + MOMENTUM * self.momentum)
        else:
            self.master[EXACT:] -= LR * share * mean
            self.accumulated += share * mean
            self.progress += share
            if self.progress >= 1 - 1e-9:
                self.momentum = MOMENTUM * self.momentum + self.accumulated
                self.master[EXACT:] -= LR * MOMENTUM * self.momentum
                self.accumulated, self.progress = np.zeros(WIDTH - EXACT), 0.0
        delta = quantise(self.master - self.published, DOWN_STEP)
        self.published = self.published + delta
        self.version += 1
        self.deltas[self.version] = delta
        return digest(self.published)


def digest(vector: Vector) -> str:
    return vector.tobytes().hex()
