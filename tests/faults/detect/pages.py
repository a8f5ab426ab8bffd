"""Pages and readings made by hand."""

from isthmus.faults.detect import Process, Readings
from isthmus.faults.page import PageView, Phase, StepRecord


def view(**changes) -> PageView:
    facts = dict(
        pid=1, generation=1, step=10, phase=Phase.FORWARD, phase_s=0.0, step_s=0.0, issued=0, waiting=0,
        waiting_s=0.0, finished=0, memory=0, left=False, nonfinite_step=-1, hash_step=-1,
        quiet_s=0.0, collectives={},
    )  # fmt: skip
    return PageView(**(facts | changes))


def record(step: int, compute_s: float = 0.1, norm: float = 1.0, loss: float = 3.0) -> StepRecord:
    return StepRecord(step, compute_s, 0.0, 0.0, norm, loss)


class Group:
    """Ranks that step together until told otherwise; a look is 50 ms."""

    def __init__(self, num_ranks: int = 4, step_s: float = 0.1):
        self.ranks = tuple(range(num_ranks))
        self.step_s = step_s
        self.now_s = 100.0
        self.beat_s = dict.fromkeys(self.ranks, self.now_s)
        self.since_s = dict.fromkeys(self.ranks, self.now_s)
        self.facts: dict[int, dict] = {rank: dict(pid=10 + rank, step=0) for rank in self.ranks}
        self.cores = dict.fromkeys(self.ranks, 1.0)
        self.letters = dict.fromkeys(self.ranks, "R")
        self.cpu_s = dict.fromkeys(self.ranks, 0.0)
        self.silent: set[int] = set()
        self.absent: set[int] = set()
        self.nodes: dict = {}
        self.homes: dict[int, str] = {}
        self._done = 0.0

    def set(self, rank: int, **facts) -> None:
        """A last write, after which it is as `silent` says."""
        if facts.get("phase", Phase.FORWARD) != self.facts[rank].get("phase", Phase.FORWARD):
            self.since_s[rank] = self.now_s
        self.facts[rank] |= facts
        self.beat_s[rank] = self.now_s

    def sleeps(self, rank: int) -> None:
        """Writes no more and uses no processor."""
        self.silent.add(rank)
        self.letters[rank], self.cores[rank] = "S", 0.0

    def waits(self, rank: int, sequence: int) -> None:
        self.set(rank, issued=sequence, waiting=sequence, finished=sequence - 1)
        self.sleeps(rank)

    def wakes(self, rank: int) -> None:
        self.silent.discard(rank)
        self.letters[rank], self.cores[rank] = "R", 1.0

    def look(self, dt_s: float = 0.05) -> Readings:
        """Time goes on by one look."""
        self.now_s += dt_s
        moving = not self.silent
        self._done += dt_s / self.step_s if moving else 0.0
        fresh = int(self._done)
        self._done -= fresh
        steps: dict[int, list[StepRecord]] = {}
        for rank in self.ranks:
            self.cpu_s[rank] += dt_s * self.cores[rank]
            if rank not in self.silent:
                self.beat_s[rank] = self.now_s
            if fresh:
                first = self.facts[rank]["step"] + 1
                self.facts[rank]["step"] += fresh
                steps[rank] = [record(first + n, self.step_s) for n in range(fresh)]
        here = [rank for rank in self.ranks if rank not in self.absent]
        return Readings(
            ranks=self.ranks,
            views={rank: self.view(rank) for rank in here},
            steps=steps,
            processes={rank: Process(letter=self.letters[rank], cpu_s=self.cpu_s[rank]) for rank in here},
            nodes=self.nodes,
            homes=self.homes,
        )

    def view(self, rank: int) -> PageView:
        quiet_s, phase_s = self.now_s - self.beat_s[rank], self.now_s - self.since_s[rank]
        return view(quiet_s=quiet_s, phase_s=phase_s, **self.facts[rank])
