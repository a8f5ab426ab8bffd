"""A chart that finds a lasting shift of a noisy figure, and its end (Page, Biometrika 41, 1954).

The cumulative sum of what a standardised residual exceeds a reference value k by is kept at or above zero;
above the decision interval h it is an alarm. For a shift of d sigma k = d / 2 is the fastest (Hawkins &
Olwell, Cumulative Sum Charts, 1998, section 2.2); h follows from the mean number of samples between false
alarms by Siegmund's approximation (Sequential Analysis, 1985, eq. 2.57):

    run length = (exp(2 k b) - 2 k b - 1) / (2 k^2),  b = h + 1.166

What real series have and this theory has not: a level and a spread that must be learnt (k grows by the error
of the level learnt so far), and single outliers of any size (one sample adds at most h / `FEWEST`, so as many
have to agree). The level follows slowly afterwards, but not while the sum says that something is under way.
"""

import math
from collections import deque
from statistics import median
from typing import Literal

import msgspec

FEWEST = 6
_LEARN, _MEMORY, _WINDOW, _REFRESH = 20, 1000, 128, 16
_MAD = 1.4826

Change = Literal["", "shifted", "back"]


class ChartSettings(msgspec.Struct, frozen=True, kw_only=True):
    shift: float
    """To be found, in the unit of the figure; negative: downwards."""
    run_length: float = 1e6
    """Samples between false alarms, on the mean."""
    smallest_sigma: float = 0.02
    skip: int = 5
    """First samples that are not looked at."""
    level: float | None = None
    """Known beforehand; None: it is learnt."""


def decision_interval(k: float, run_length: float) -> float:
    """h in sigmas, at least 4: tails of real figures are heavier than those of the theory."""
    low, high = 0.0, 1000.0
    for _ in range(60):
        b = (low + high) / 2
        exponent = min(700.0, 2 * k * b)
        longer = (math.exp(exponent) - exponent - 1) / (2 * k * k) > run_length
        low, high = (low, b) if longer else (b, high)
    return max(4.0, high - 1.166)


class Chart:
    """One series. Upwards; for a negative shift figures are turned over."""

    def __init__(self, settings: ChartSettings):
        self._settings = settings
        self._sign = math.copysign(1.0, settings.shift)
        self._shift = abs(settings.shift)
        self._seen = -settings.skip
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._sum = self._back_sum = 0.0
        self._run: list[float] = []
        self.level = settings.level or 0.0
        self.sigma = 0.0
        self.shifted = False

    @property
    def learnt(self) -> bool:
        return self._seen >= _LEARN

    @property
    def since(self) -> int:
        """Samples since the sum last left zero: when the shift began, as far as can be told."""
        return len(self._run)

    @property
    def size(self) -> float:
        """The shift, in the figure's unit, over the samples since it began."""
        return self._sign * median(self._run) if self._run else 0.0

    def add(self, value: float) -> Change:
        """The next sample; says if the series has shifted with it, or is back where it was."""
        self._seen += 1
        if self._seen <= 0:
            return ""
        residual = self._sign * (value - self.level)
        if self._seen <= _LEARN:
            self._learn(value)
            return ""
        return self._test_back(residual) if self.shifted else self._test(residual)

    def _learn(self, value: float) -> None:
        self._recent.append(value)
        if self._settings.level is None:
            self.level = median(self._recent)
        if self._seen == _LEARN:
            residuals = [self._sign * (seen - self.level) for seen in self._recent]
            self._recent.clear()
            self._recent.extend(residuals)
            self._design()

    def _design(self) -> None:
        """Spread, reference value and decision interval from what was seen."""
        center = median(self._recent)
        spread = _MAD * median(abs(residual - center) for residual in self._recent)
        self.sigma = max(self._settings.smallest_sigma, spread)
        known = self._settings.level is not None
        unsure = 0.0 if known else 2.5 * self.sigma / math.sqrt(min(self._seen, _MEMORY))
        self._k = (self._shift / 2 + min(unsure, 0.35 * self._shift)) / self.sigma
        self._h = decision_interval(self._k, self._settings.run_length)

    def _test(self, residual: float) -> Change:
        step = min(residual / self.sigma - self._k, self._h / FEWEST)
        self._sum = max(0.0, self._sum + step)
        if self._sum == 0.0:
            self._run.clear()
        elif len(self._run) < _WINDOW:
            self._run.append(residual)
        if self._sum > self._h:
            self.shifted, self._sum, self._back_sum = True, 0.0, 0.0
            return "shifted"
        if self._sum < self._h / 3:
            self._follow(residual)
        return ""

    def _test_back(self, residual: float) -> Change:
        step = min((self._shift / 2 - residual) / self.sigma, self._h / FEWEST)
        self._back_sum = max(0.0, self._back_sum + step)
        if self._back_sum <= self._h:
            return ""
        self.shifted, self._back_sum = False, 0.0
        self._run.clear()
        return "back"

    def _follow(self, residual: float) -> None:
        if self._settings.level is None:
            limit = 2 * self.sigma
            self.level += self._sign * max(-limit, min(limit, residual)) / min(self._seen, _MEMORY)
        self._recent.append(residual)
        if self._seen % _REFRESH == 0:
            self._design()
