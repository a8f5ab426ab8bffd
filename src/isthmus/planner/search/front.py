"""What the templates of a part of a site can take in a given time, and the least time for the whole batch.

A template with m micro-batches takes T(m), which rises with m by at least its slowest stage's seconds a. So
T(m) >= a m + c from the start, and once the split for m0 micro-batches is known, T(m) >= T(m0) + a (m - m0)
for m >= m0: lines, from which the most micro-batches that may end within T follow for all candidates at once.

**Least time.** Parts take the batch within T only if the sum over the parts of the most that any candidate
may take reaches it. Whether they really do is found by solving the splits of those candidates, the best
first, until templates that are built reach the batch, or the lines no longer do. Bisection over T: every
upper end is the time of templates that exist, every lower end one that no candidates keep.

The same with chips that need not come out whole (`whole=False`) bounds every mixture of templates inside a
part: N chips take no more than N times the most that any template takes for each of its chips.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.planner.search.template import Template

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CLOSE = 1e-5
"""Relative width at which the bisection ends."""
TIGHTENED = 64
"""Candidates that get their second bound at once."""
NEAR = 0.95
"""They may take at least this part of the most."""
MAX_SPLITS = 20_000
FOREVER_S = 1e12


class Lines(NamedTuple):
    """Candidates of a part; arrays, one entry each."""

    each_s: Floats
    """a: least seconds that one more micro-batch takes."""
    rest_s: Floats
    """c"""
    whole: Floats
    """Sequences in a micro-batch of all replicas."""
    cut: Floats
    """The same if all chips could be shared out among replicas."""
    turn: Ints
    """Micro-batches come in multiples of this."""


@dataclass
class Front:
    """Candidates of one part, made exact one by one."""

    lines: Lines
    tighten: Callable[[int], tuple[float, float]]
    """What to add to a and c of a candidate for what its replicas exchange."""
    build: Callable[[int, int], tuple[Template, float] | None]
    """The template of a candidate with so many micro-batches and its seconds; None if it does not fit."""
    least_in_flight: Callable[[int], int]
    """Micro-batches of a candidate from which on its memory does not grow."""
    built: dict[tuple[int, int], tuple[Template, float] | None] = field(default_factory=dict)
    last: tuple[int, int] = (-1, 0)
    """Candidate and micro-batches of the last split."""

    def __post_init__(self) -> None:
        size = len(self.lines.each_s)
        self.each_s, self.rest_s = self.lines.each_s.copy(), self.lines.rest_s.copy()
        self.tight = np.zeros(size, bool)
        # Of the last splits solved, that ended in time and that did not: micro-batches, c from there on.
        self.low, self.low_s = np.zeros(size), self.rest_s.copy()
        self.high, self.high_s = np.full(size, np.inf), np.full(size, np.inf)

    def counts(self, rows: Ints, limit_s: float) -> Floats:
        """Most micro-batches of each row that may end within `limit_s`."""
        each_s, low, high = self.each_s[rows], self.low[rows], self.high[rows]
        low_s, high_s = self.low_s[rows], self.high_s[rows]
        crossed = low > high
        one, two = np.where(crossed, high, low), np.where(crossed, low, high)
        first = np.minimum(np.floor((limit_s - self.rest_s[rows]) / each_s), one - 1)
        middle = np.floor((limit_s - np.where(crossed, high_s, low_s)) / each_s)
        last = np.floor((limit_s - np.where(crossed, low_s, high_s)) / each_s)
        most = np.where(last >= two, last, np.where(middle >= one, np.minimum(middle, two - 1), first))
        most = np.maximum(most, 0)
        return most - np.mod(most, self.lines.turn[rows].astype(np.float64))

    def sequences(self, rows: Ints, limit_s: float, whole: bool) -> Floats:
        gain = self.lines.whole if whole else self.lines.cut
        return self.counts(rows, limit_s) * gain[rows]

    def settle(self, rows: Ints, may: Floats, limit_s: float) -> Ints:
        """Makes the candidate that may take most within `limit_s` more exact, and maybe others: positions in
        `rows` of those that it did. `may`: what each of them may take."""
        first = int(np.argmax(may))
        if self.tight[rows[first]]:
            count = int(self.counts(rows[first : first + 1], limit_s)[0])
            self._cut(int(rows[first]), count, limit_s)
            return np.array([first])
        loose = np.flatnonzero((may >= NEAR * may[first]) & ~self.tight[rows])[:TIGHTENED]
        loose = np.union1d(loose, [first])
        for row in rows[loose].tolist():
            self._tighten(row)
        return loose

    def _tighten(self, row: int) -> None:
        each_s, rest_s = self.tighten(row)
        self.each_s[row] += each_s
        self.rest_s[row] += rest_s
        self.low_s[row] = self.rest_s[row]
        self.tight[row] = True

    def _cut(self, row: int, count: int, limit_s: float) -> None:
        """Solves the split for `count` micro-batches."""
        self.last = (row, count)
        if (row, count) not in self.built:
            self.built[row, count] = self.build(row, count)
        found = self.built[row, count]
        if found is None:
            self.high[row], self.high_s[row] = min(count, max(1, self.least_in_flight(row))), np.inf
        elif found[1] > limit_s:
            self.high[row], self.high_s[row] = count, found[1] - self.each_s[row] * count
        else:
            self.low[row], self.low_s[row] = count, found[1] - self.each_s[row] * count

    def latest(self, limit_s: float, whole: bool) -> float:
        """Sequences of the template that was settled last, if it ends within `limit_s`."""
        found = self.built.get(self.last)
        gain = self.lines.whole if whole else self.lines.cut
        return float(gain[self.last[0]]) * self.last[1] if found and found[1] <= limit_s else 0.0

    def exact(self, limit_s: float, whole: bool) -> tuple[float, tuple[int, int] | None]:
        """Most sequences of a template that is built and ends within `limit_s`, and which it is."""
        gain = self.lines.whole if whole else self.lines.cut
        ended = [
            (float(gain[row]) * count, -row, -count)
            for (row, count), found in self.built.items()
            if found is not None and found[1] <= limit_s
        ]
        if not ended:
            return 0.0, None
        most, row, count = max(ended)
        return most, (-row, -count)

    def times(self) -> list[float]:
        """Of the templates that are built."""
        return [found[1] for found in self.built.values() if found is not None]


class Least(NamedTuple):
    """Least time of some parts for the batch."""

    step_s: float
    bound_s: float
    """No candidates are faster."""
    chosen: list[tuple[int, int] | None]
    """Of each part the candidate and its micro-batches, None: it is left out. Empty: nothing is faster than
    the limit."""


def least_time(fronts: Sequence[Front], batch: int, whole: bool, limit_s: float = np.inf) -> Least:
    """`limit_s`: a time that is known to do, by other means."""
    search = _Search(fronts, batch, whole, [np.arange(len(front.each_s)) for front in fronts])
    low_s, high_s, bound_s, chosen = 0.0, limit_s, 0.0, []
    if np.isfinite(limit_s):
        search.prune(limit_s)
    while high_s - low_s > CLOSE * high_s or not np.isfinite(high_s):
        middle_s = (low_s + high_s) / 2 if np.isfinite(high_s) else max(2 * low_s, search.first_s())
        if middle_s > FOREVER_S:
            break
        if search.reaches(middle_s):
            high_s = search.least_built(middle_s)
            chosen = [front.exact(high_s, whole)[1] for front in fronts]
            search.prune(high_s)
        else:
            low_s = middle_s
            bound_s = bound_s if search.gave_up else middle_s
    return Least(high_s, bound_s, chosen)


@dataclass
class _Search:
    fronts: Sequence[Front]
    batch: int
    whole: bool
    rows: list[Ints]
    """Of each part the candidates that are still of use."""
    gave_up: bool = False
    """Some answer took more than MAX_SPLITS splits: from then on no bound follows."""

    def first_s(self) -> float:
        return min((float(front.each_s.min(initial=FOREVER_S)) for front in self.fronts), default=FOREVER_S)

    def reaches(self, limit_s: float) -> bool:
        """Whether the parts take the batch within `limit_s`."""
        pairs = list(zip(self.fronts, self.rows, strict=True))
        may = [front.sequences(rows, limit_s, self.whole) for front, rows in pairs]
        exact = [front.exact(limit_s, self.whole)[0] for front in self.fronts]
        for _ in range(MAX_SPLITS):
            most = [float(each.max(initial=0.0)) for each in may]
            if sum(most) < self.batch:
                return False
            if sum(exact) >= self.batch:
                return True
            part = int(np.argmax(np.subtract(most, exact)))
            front, rows = pairs[part]
            touched = front.settle(rows, may[part], limit_s)
            may[part][touched] = front.sequences(rows[touched], limit_s, self.whole)
            exact[part] = max(exact[part], front.latest(limit_s, self.whole))
        self.gave_up = True
        return False

    def least_built(self, limit_s: float) -> float:
        """Least time, at most `limit_s`, in which templates that are built take the batch."""
        times = sorted({each for front in self.fronts for each in front.times() if each <= limit_s})
        low, high = 0, len(times) - 1
        while low < high:
            middle = (low + high) // 2
            taken = sum(front.exact(times[middle], self.whole)[0] for front in self.fronts)
            low, high = (low, middle) if taken >= self.batch else (middle + 1, high)
        return times[high]

    def prune(self, limit_s: float) -> None:
        """Leaves out what takes too little within a time that will do, whatever the other parts take."""
        by_part = [
            front.sequences(rows, limit_s, self.whole)
            for front, rows in zip(self.fronts, self.rows, strict=True)
        ]
        most = [float(each.max(initial=0.0)) for each in by_part]
        self.rows = [
            rows[own >= self.batch - (sum(most) - mine)]
            for rows, own, mine in zip(self.rows, by_part, most, strict=True)
        ]
