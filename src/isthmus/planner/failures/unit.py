"""Machines that stop together: their clock, where its time went, and how they come back. Microseconds."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from isthmus.planner.failures.pace import NEVER, Cycle

USEFUL = "useful"
LOST = "lost work"
DETECT = "detect"
RESTART = "restart"
SPARE = "no spare"
SHRUNK = "fewer nodes"
CHECKPOINT = "checkpoint"
LINK = "link"
SITES = "other sites"
SERVER = "server"
CAUSES = (LOST, DETECT, RESTART, SPARE, SHRUNK, CHECKPOINT, LINK, SITES, SERVER)
"""Where seconds go that train nothing that stays. `fewer nodes`: what the missing ones would have done."""
ALL = (USEFUL, *CAUSES)

SERVER_POOL = -1


class Strike(NamedTuple):
    """A failure to come: when, in which pool (SERVER_POOL: the parameter server), and which of its nodes."""

    at: int
    pool: int
    mark: float


class Times(NamedTuple):
    """What recovery takes."""

    detect: int
    restart: int
    durable: int
    """A checkpoint this young cannot be restored yet."""
    server: int
    """Pause when the server fails."""


class Pool:
    """A site's nodes. Those that failed return after `repair`, in the order in which they failed."""

    def __init__(self, nodes: int, spares: int, repair: int, replica: int):
        self.nodes, self.spares, self.failures = nodes, spares, 0
        self._repair, self._replica = repair, replica
        self._away: deque[int] = deque()

    def missing(self, now: int) -> int:
        """Places that no node fills."""
        while self._away and self._away[0] <= now:
            self._away.popleft()
        return max(0, len(self._away) - self.spares)

    def fail(self, now: int, mark: float) -> bool:
        """False if the place that was drawn is empty: an exponential clock that is not running."""
        if int(mark * self.nodes) < self.missing(now):
            return False
        self.failures += 1
        self._away.append(now + self._repair)
        return True

    def next_back(self, now: int) -> int:
        """When one more place is filled."""
        missing = self.missing(now)
        return self._away[0] if missing else NEVER

    def speed(self, now: int) -> float:
        """Of the whole replicas that are left, relative to all."""
        away = -(-self.missing(now) // self._replica) * self._replica
        return max(0.0, (self.nodes - away) / self.nodes)


class Unit:
    """`now` only rises, and every microsecond of it is in `spent` under one cause."""

    def __init__(
        self, pools: Sequence[Pool], strikes: Sequence[Strike], times: Times, end: int, shrink: bool
    ):
        self.pools, self.now, self.end = pools, 0, end
        self.spent: dict[str, int] = dict.fromkeys(ALL, 0)
        self.outages: list[tuple[int, int]] = []
        self.speed = 1.0
        self._strikes, self._at, self._times, self._shrink = strikes, 0, times, shrink
        self._pending = self._young = 0

    @property
    def next_event(self) -> int:
        """Nothing changes before it: the next failure, or a node that is back."""
        if self.speed == 1:
            return self._next_strike()
        is_due = self._attainable() > self.speed  # came back while the unit stood
        return self.now if is_due else min(self._next_strike(), self._next_back())

    def repeat(self, cycle: Cycle, times: int) -> None:
        """So many cycles that nothing disturbs."""
        if times:
            self._train(cycle, 0, cycle.length)
            self._commit()
            self._add(cycle, self._young, times - 1)

    def complete(self, cycle: Cycle) -> None:
        """One cycle to its commit, however often it is begun again; or to the end of time."""
        done = 0
        while self.now < self.end:
            stop = min(cycle.length - done, self._next_strike() - self.now, self.end - self.now)
            self._train(cycle, done, done + stop)
            done += stop
            if done == cycle.length:
                self._commit()
                return self._grow()
            if self.now < self.end and not self._survive():
                self._lose(done)
                self._recover()
                done = 0

    def hold(self, until: int, cause: str) -> None:
        """Stand until then, with nothing at risk; longer if a failure meanwhile takes longer to mend."""
        while self.now < min(until, self.end):
            if not self._stand(until, cause):
                self._lose(0)
                self._recover()

    def idle(self, length: int, cause: str) -> None:
        """Stand for so long, undisturbed."""
        self.now += length
        self.spent[cause] += length

    def _next_strike(self) -> int:
        return self._strikes[self._at].at if self._at < len(self._strikes) else NEVER

    def _next_back(self) -> int:
        return min(pool.next_back(self.now) for pool in self.pools)

    def _train(self, cycle: Cycle, start: int, stop: int) -> None:
        before, after = cycle.until(start), cycle.until(stop)
        work, stretch, pause = (b - a for a, b in zip(before, after, strict=True))
        useful = work if self.speed == 1 else round(work * self.speed)
        self._pending += useful
        self.now += stop - start
        self._book(useful, work - useful, stretch, pause)

    def _add(self, cycle: Cycle, useful: int, times: int) -> None:
        self.now += cycle.length * times
        parts = (useful, cycle.work - useful, cycle.stretch, cycle.pause)
        self._book(*(part * times for part in parts))

    def _book(self, useful: int, shrunk: int, stretch: int, pause: int) -> None:
        self.spent[USEFUL] += useful
        self.spent[SHRUNK] += shrunk
        self.spent[LINK] += stretch
        self.spent[CHECKPOINT] += pause

    def _commit(self) -> None:
        self._pending, self._young = 0, self._pending

    def _lose(self, since_commit: int) -> None:
        """Work since the last checkpoint, or since the one before it if that is not durable yet."""
        lost = self._pending + (self._young if since_commit < self._times.durable else 0)
        self.spent[USEFUL] -= lost
        self.spent[LOST] += lost
        self._pending = self._young = 0

    def _survive(self) -> bool:
        """Take the strike that is due now; False if work stops."""
        strike = self._strikes[self._at]
        self._at += 1
        if strike.pool != SERVER_POOL:
            return not self.pools[strike.pool].fail(self.now, strike.mark)
        return self._stand(self.now + self._times.server, SERVER)

    def _stand(self, until: int, cause: str) -> bool:
        """False if a node failed before then; the clock is at its failure. Servers are not looked at."""
        until = min(until, self.end)
        while self._next_strike() < until:
            strike = self._strikes[self._at]
            self._at += 1
            self.idle(max(0, strike.at - self.now), cause)
            if strike.pool != SERVER_POOL and self.pools[strike.pool].fail(self.now, strike.mark):
                return False
        self.idle(max(0, until - self.now), cause)
        return True

    def _recover(self) -> None:
        """Stop, find nodes, start again. A node that fails meanwhile begins it anew."""
        start = self.now
        while self.now < self.end:
            if (
                self._stand(self.now + self._times.detect, DETECT)
                and self._find_nodes()
                and self._stand(self.now + self._times.restart, RESTART)
            ):
                break
        self.outages.append((start, self.now))

    def _find_nodes(self) -> bool:
        while self.now < self.end:
            self.speed = self._attainable()
            if self.speed > 0:
                return True
            if not self._stand(self._next_back(), SPARE):
                return False
        return True

    def _attainable(self) -> float:
        """Of a pipeline over pools, the worst of them."""
        speed = min(pool.speed(self.now) for pool in self.pools)
        return speed if self._shrink or speed == 1 else 0.0

    def _grow(self) -> None:
        """Take nodes that are back into use, right after a commit: costs a restart, no work."""
        if self.speed < 1 and self._attainable() > self.speed:
            start = self.now
            if self._stand(self.now + self._times.restart, RESTART):
                self.speed = self._attainable()
                self.outages.append((start, self.now))
            else:
                self._lose(0)
                self._recover()
