"""The median of many rates, however many there are: a histogram whose bins are 2 % wide."""

import math

import msgspec

WIDTH = 0.02
MOST_BINS = 1000
"""Rates above 22,000 times the first, or below as small a part of it, are counted in the outermost bins."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Bins by the logarithm of the rate over `unit`, the first rate; each with (count, sum)."""

    unit: float = 0.0
    bins: dict[int, tuple[int, float]] = {}

    def add(self, rate: float) -> "Rates":
        """Rates that are not above 0 and finite are left out."""
        if not (math.isfinite(rate) and rate > 0):
            return self
        unit = self.unit or rate
        place = min(max(round(math.log(rate / unit) / WIDTH), -MOST_BINS // 2), MOST_BINS // 2)
        count, total = self.bins.get(place, (0, 0.0))
        return Rates(unit=unit, bins={**self.bins, place: (count + 1, total + rate)})

    def median(self) -> float:
        """The mean of the bin that the median falls in; 0 of nothing."""
        left = (sum(count for count, _ in self.bins.values()) + 1) / 2
        for _, (count, total) in sorted(self.bins.items()):
            left -= count
            if left <= 0:
                return total / count
        return 0.0
