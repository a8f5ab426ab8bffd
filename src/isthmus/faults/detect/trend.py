"""When will a growing figure meet its limit?

Not by its last values: caches fill and memory is given back in jerks. What counts is the floor, the
smallest value in each of eight spans of equal length. It must rise from span to span (Mann 1945, Kendall's
test: at most one of 28 pairs the other way, which chance does in about 2 of 10^4), must not level off, and
must be above all that was ever reached before, so that a sawtooth is no trend. The slope is Theil's and
Sen's (1968): the median over all pairs. Looked at on spans of 2 s, 4 s, 8 s and so on at once, and never
carried on further than four times as long as it was seen.
"""

from collections import deque
from itertools import combinations
from statistics import median

_SPANS, _DOUBLINGS, _CARRY = 8, 7, 4.0


class Climb:
    """One series; memory bounded by `2 ** _DOUBLINGS * _SPANS` blocks."""

    def __init__(self, block_s: float = 2.0):
        self._block_s = block_s
        self._lows: deque[float] = deque(maxlen=_SPANS << _DOUBLINGS)
        self._highs: deque[float] = deque(maxlen=_SPANS << _DOUBLINGS)
        self._ever = float("-inf")
        """Highest of what fell out of the blocks."""
        self._until_s: float | None = None
        self._low = self._high = 0.0

    def add(self, now_s: float, value: float) -> bool:
        """Whether this ended a block: there may be news of `eta_s`."""
        if self._until_s is None or now_s >= self._until_s + self._block_s:
            ended = self._until_s is not None
            if ended:
                self._close()
            self._until_s = now_s + self._block_s
            self._low = self._high = value
            return ended
        if now_s < self._until_s:
            self._low, self._high = min(self._low, value), max(self._high, value)
            return False
        self._close()
        self._until_s += self._block_s
        self._low = self._high = value
        return True

    def _close(self) -> None:
        if len(self._lows) == self._lows.maxlen:
            self._ever = max(self._ever, self._highs[0])
        self._lows.append(self._low)
        self._highs.append(self._high)

    def eta_s(self, limit: float) -> float | None:
        """Seconds until it meets `limit`; None: nothing says that it will."""
        found = [self._eta_s(limit, 1 << n) for n in range(_DOUBLINGS + 1)]
        return min((eta for eta in found if eta is not None), default=None)

    def _eta_s(self, limit: float, width: int) -> float | None:
        blocks = _SPANS * width
        if len(self._lows) < blocks:
            return None
        lows = list(self._lows)[-blocks:]
        floor = [min(lows[at : at + width]) for at in range(0, blocks, width)]
        before = max(list(self._highs)[:-blocks], default=self._ever)
        rises = sum((b > a) - (b < a) for a, b in combinations(floor, 2))
        if rises < 26 or _levels_off(floor, limit) or floor[-1] <= max(before, self._ever):
            return None
        span_s = width * self._block_s
        slope = median((floor[b] - floor[a]) / (b - a) for a, b in combinations(range(_SPANS), 2)) / span_s
        eta_s = max(0.0, (limit - floor[-1]) / slope) if slope > 0 else float("inf")
        return eta_s if eta_s <= _CARRY * _SPANS * span_s else None


def _levels_off(floor: list[float], limit: float) -> bool:
    """Whether growth dies down before the limit: if the second half grew by a fraction r of the first, each
    half to come grows by r of the one before, r / (1 - r) of the last in all.
    """
    half = len(floor) // 2
    before, after = floor[half - 1] - floor[0], floor[-1] - floor[half]
    if after < 0.5 * before:
        return True
    if after >= before:
        return False
    ratio = after / before
    return floor[-1] + (floor[-1] - floor[half - 1]) * ratio / (1 - ratio) < limit
