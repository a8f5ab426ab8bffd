"""A gradient that is not finite, and a loss that jumps.

What one rank spoils spreads with the next exchange, so of all ranks whose gradient is not finite those are
to blame that were the first, in the same step. A loss is held against the run's last losses; whose rows it
came from is told by the losses and gradient norms of the ranks beside each other, both as robust z-scores:
distance from the median in units of 1.4826 times the median distance.
"""

import math
from collections import deque
from collections.abc import Collection
from statistics import fmean, median

import msgspec

from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding
from isthmus.faults.page import StepRecord

_WINDOW, _FEWEST, _HELD_STEPS = 128, 32, 64
_STUCK_STEPS = 3
"""A learner gives up after ten."""
_SMALLEST = 0.01
"""Spread of losses and of the logarithm of norms below which none is believed."""


class NumbersSettings(msgspec.Struct, frozen=True, kw_only=True):
    jump_z: float = 12.0
    """Of one step."""
    rise_z: float = 7.0
    """Of three steps in a row."""
    own_z: float = 6.0
    """By which a rank stands out from the others, and at least three times as far as the next."""


class NonfiniteDetector:
    """Waits one look before it blames anyone: pages are not read at one instant."""

    def __init__(self, standing: Standing):
        self._standing = standing
        self._seen: dict[int, tuple[int, int, int]] = {}
        """Generation, pid and first step of the run of bad steps that a rank was last seen in."""
        self._runs: dict[int, tuple[int, int]] = {}
        """First and last bad step by records."""
        self._pending: dict[int, int] = {}
        self._told: dict[int, int] = {}
        """Step by rank that was blamed for it."""
        self._generation = -1
        self._row: dict[int, int] = {}
        """Bad steps in a row up to the last one, by rank."""

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        self._renew(readings)
        for rank in [rank for rank, step in self._told.items() if _past(rank, step, readings)]:
            del self._told[rank]
            self._standing.end(("nan", rank))
        ready, fresh = dict(self._pending), self._fresh(readings)
        self._pending |= {rank: step for rank, step in fresh.items() if not self._spread(step)}
        stuck = self._stuck(now_s, readings)
        if not ready:
            return stuck
        step = min(self._pending.values())
        guilty = sorted(rank for rank, bad in self._pending.items() if bad == step)
        self._pending.clear()
        found: list[Finding] = []
        for rank in guilty:
            self._told[rank] = step
            what = f"the own gradient of rank {rank} is not finite after {step} steps, before any other's"
            finding = Finding(
                kind="nan",
                rank=rank,
                what=what,
                began_s=now_s,
                seen_s=now_s,
                suspects=tuple(guilty),
                lasting=False,
            )
            found += self._standing.begin(("nan", rank), finding)
        return found + stuck

    def _renew(self, readings: Readings) -> None:
        """A new group may have been rolled back: it comes to the same steps again."""
        if readings.generation in (-1, self._generation):
            return
        self._generation = readings.generation
        self._row.clear()
        self._told.clear()
        self._standing.keep("nan", [])
        self._standing.keep("nan_stays", [])

    def _stuck(self, now_s: float, readings: Readings) -> list[Finding]:
        """One rank alone that stays at it: steps are left out on all ranks and rows are new each time, so it
        is what the rank holds, or its chip.
        """
        for rank, records in readings.steps.items():
            for record in records:
                self._row[rank] = 0 if math.isfinite(record.grad_norm) else self._row.get(rank, 0) + 1
        bad = [rank for rank, count in self._row.items() if count]
        if len(bad) != 1 or self._row[bad[0]] < _STUCK_STEPS or len(readings.ranks) < 2:
            return []
        (rank,) = bad
        finding = Finding(
            kind="nan",
            rank=rank,
            what=f"the own gradient of rank {rank} alone was not finite in {self._row[rank]} steps in a row",
            began_s=now_s,
            seen_s=now_s,
            suspects=(rank,),
        )
        return self._standing.begin(("nan_stays", rank), finding)

    def _spread(self, step: int) -> bool:
        """What a bad gradient spoils shows on the others in the next step."""
        return step - 1 in self._told.values()

    def _fresh(self, readings: Readings) -> dict[int, int]:
        """Ranks that were not seen to be in this run of bad steps before, and its first step."""
        bad = {rank: view.nonfinite_step for rank, view in readings.views.items()}
        for rank, records in readings.steps.items():
            for step in [record.step - 1 for record in records if not math.isfinite(record.grad_norm)]:
                first, last = self._runs.get(rank, (step, step))
                self._runs[rank] = (first if step - last <= 1 else step, step)
                if bad.get(rank, -1) < 0:
                    bad[rank] = self._runs[rank][0]
        fresh: dict[int, int] = {}
        for rank, step in bad.items():
            view = readings.views.get(rank)
            mark = (view.generation, view.pid, step) if view else (0, 0, step)
            if step >= 0 and self._seen.get(rank) != mark:
                self._seen[rank] = mark
                fresh[rank] = step
        return fresh


def _past(rank: int, step: int, readings: Readings) -> bool:
    view = readings.views.get(rank)
    return view is not None and view.step > step + 16


class LossDetector:
    def __init__(self, standing: Standing, settings: NumbersSettings | None = None):
        self._standing = standing
        self._settings = settings or NumbersSettings()
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._rising = 0
        self._calm = 0
        self._held: dict[int, dict[int, StepRecord]] = {}

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        for rank, records in readings.steps.items():
            for record in records:
                self._held.setdefault(record.step, {})[rank] = record
        found: list[Finding] = []
        wanted = set(readings.ranks)
        for step in sorted(self._held):
            if wanted <= self._held[step].keys():
                found += self._judge(now_s, step, self._held.pop(step))
        for step in sorted(self._held)[:-_HELD_STEPS]:
            del self._held[step]
        return found

    def _judge(self, now_s: float, step: int, records: dict[int, StepRecord]) -> list[Finding]:
        losses = {
            r: record.loss for r, record in records.items() if record.loss and math.isfinite(record.loss)
        }
        if not losses:
            return []
        mean = fmean(losses.values())
        if len(self._recent) < _FEWEST:
            self._recent.append(mean)
            return []
        usual, spread = _line(list(self._recent))
        z = (mean - usual) / spread
        self._rising = self._rising + 1 if z > self._settings.rise_z else 0
        if z <= self._settings.rise_z:
            self._recent.append(mean)
            self._calm += 1
            if self._calm >= 8:
                self._standing.end(("loss", None))
            return []
        self._calm = 0
        if z <= self._settings.jump_z and self._rising < 3:
            return []
        if self._rising >= _FEWEST:
            self._recent.append(mean)  # it stays there: this is its level now
        return self._standing.begin(("loss", None), self._tell(now_s, step, (mean, usual, z), records))

    def _tell(
        self, now_s: float, step: int, figures: tuple[float, float, float], records: dict[int, StepRecord]
    ) -> Finding:
        mean, usual, z = figures
        rank = stands_out(records, self._settings.own_z)
        blame = f"; rank {rank} stands out from the others" if rank is not None else "; no rank stands out"
        return Finding(
            kind="loss_spike",
            rank=rank,
            what=f"loss {mean:.4g} at step {step}, {z:.0f} sigma above {usual:.4g}{blame}",
            began_s=now_s,
            seen_s=now_s,
            suspects=() if rank is None else (rank,),
            lasting=False,
        )


def stands_out(records: dict[int, StepRecord], least_z: float) -> int | None:
    """The rank whose own loss or gradient norm is the furthest above the others', if it is so by `least_z`
    and three times as far as the next. None: no rank, or fewer than three.
    """
    losses = {rank: record.loss for rank, record in records.items() if record.loss}
    norms = {rank: math.log(record.grad_norm) for rank, record in records.items() if record.grad_norm > 0}
    best: tuple[float, int] | None = None
    for values in (losses, norms):
        values = {rank: value for rank, value in values.items() if math.isfinite(value)}
        if len(values) < 3:
            continue
        least = _SMALLEST * abs(median(values.values()))
        far = sorted(((_z_beside(rank, values, least), rank) for rank in values), reverse=True)
        if far[0][0] > least_z and far[0][0] > 3 * far[1][0] and (best is None or far[0][0] > best[0]):
            best = far[0]
    return best[1] if best else None


def _line(recent: list[float]) -> tuple[float, float]:
    """What comes next, by the straight line through the medians of both halves, and the spread around it."""
    half = len(recent) // 2
    first, second = median(recent[:half]), median(recent[half:])
    slope = (second - first) / (len(recent) - half)
    middle = half + (len(recent) - half - 1) / 2
    residuals = [value - second - slope * (n - middle) for n, value in enumerate(recent)]
    spread = 1.4826 * median(abs(residual) for residual in residuals)
    return second + slope * (len(recent) - middle), max(spread, _SMALLEST * abs(second), 1e-12)


def _z(value: float, others: Collection[float], least: float) -> float:
    center = median(others)
    spread = 1.4826 * median(abs(other - center) for other in others)
    return (value - center) / max(spread, least, 1e-12)


def _z_beside(rank: int, values: dict[int, float], least: float) -> float:
    """Of one rank against the others; spread of three or so is no measure, so it is at least 5 `least`."""
    return _z(values[rank], [value for other, value in values.items() if other != rank], 5 * least)
