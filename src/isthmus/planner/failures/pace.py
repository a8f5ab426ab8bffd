"""How a site works while nothing fails: cycles of work and commit, and the line they go over.

All times are whole microseconds, so that sums are exact.
"""

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

NEVER = 2**62


def micros(seconds: float) -> int:
    """Whole microseconds, so that sums of times are exact."""
    return min(NEVER, round(seconds * 1e6))


class Cycle(NamedTuple):
    """From one commit to the next: work, longer by `stretch` on a slow line, then a pause for the commit."""

    work: int
    stretch: int
    pause: int

    @property
    def length(self) -> int:
        return self.work + self.stretch + self.pause

    def until(self, at: int) -> "Cycle":
        """What the first `at` microseconds went on."""
        busy = self.work + self.stretch
        inside = min(at, busy)
        work = inside * self.work // busy
        return Cycle(work, inside - work, at - inside)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line with its slow times, ascending and apart."""

    transfer: int
    factor: float
    starts: list[int]
    ends: list[int]

    def is_slow(self, now: int) -> bool:
        past = bisect.bisect_right(self.ends, now)
        return past < len(self.starts) and self.starts[past] <= now

    def arrival(self, now: int) -> int:
        """When a transfer is through that begins now: in slow times it gets on `factor` times slower."""
        left = float(self.transfer)
        for i in range(bisect.bisect_right(self.ends, now), len(self.starts)):
            free = max(0, self.starts[i] - now)
            if left <= free:
                break
            left, now = left - free, now + free
            through = (self.ends[i] - now) / self.factor
            if left <= through:
                return now + math.ceil(left * self.factor)
            left, now = left - through, self.ends[i]
        return now + math.ceil(left)

    def quiet_until(self, now: int) -> int:
        """Transfers that begin until then take as long as one that begins now; `now` if that is not known."""
        past = bisect.bisect_right(self.ends, now)
        if past == len(self.starts):
            return NEVER
        if self.starts[past] > now:
            return max(now, self.starts[past] - self.transfer)
        return max(now, self.ends[past] - math.ceil(self.transfer * self.factor) - 1)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The cycles of machines that work together."""

    step: int
    work: int
    """Of a cycle, in whole steps."""
    pause: int
    lines: Sequence[Line]
    is_inside: bool
    """The lines are used within steps (a pipeline over sites), not between windows."""
    overlap: int | None

    def cycle(self, now: int) -> Cycle:
        """The one that begins now."""
        if self.is_inside:
            slowed = (line.transfer * (line.factor - 1) for line in self.lines if line.is_slow(now))
            stretch = min(NEVER, round(self.work * sum(slowed) / self.step))
            return Cycle(self.work, stretch, self.pause)
        if self.overlap is None:
            busy = max((line.arrival(now) - now for line in self.lines), default=0)
            return Cycle(max(self.work, -(-busy // self.step) * self.step), 0, self.pause)
        return Cycle(self.work, 0, self.pause)

    def result(self, now: int) -> int:
        """Until when a push that is made now keeps training waiting."""
        if self.is_inside or self.overlap is None:
            return now
        return max(now, max((line.arrival(now) for line in self.lines), default=now) - self.overlap)

    def quiet_until(self, now: int) -> int:
        """Until then one cycle is like another."""
        return min((line.quiet_until(now) for line in self.lines), default=NEVER)


def line_of(transfer_s: float, factor: float, slow: Sequence[tuple[float, float]]) -> Line:
    """`slow`: (start, end) in seconds."""
    edges = [(micros(start), micros(end)) for start, end in slow]
    assert all(a[1] <= b[0] for a, b in pairwise(edges))
    starts, ends = [start for start, _ in edges], [end for _, end in edges]
    return Line(transfer=micros(transfer_s), factor=factor, starts=starts, ends=ends)
