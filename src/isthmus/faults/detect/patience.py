"""How long is too long, learnt from the run itself."""

import msgspec

from isthmus.faults.page import UNBOUNDED, PageView, Phase, StepRecord

_WINDOW = 256
"""Steps."""


class HangSettings(msgspec.Struct, frozen=True, kw_only=True):
    floor_s: float = 2.0
    factor: float = 4.0
    """Of the 99th percentile of the step time."""
    first_step_s: float = 60.0
    """For the first two steps of a process, in which things are compiled and loaded."""
    busy_floor_s: float = 20.0
    busy_factor: float = 10.0
    """For a rank that uses the processor, of the same percentile."""
    pause_factor: float = 5.0
    """Of the longest that a phase without a bound, such as a checkpoint, took before."""
    pause_floor_s: float = 30.0
    start_floor_s: float = 30.0
    """The same for the start: a process that is not forked from a warm one imports for 20 s."""
    first_pause_s: float = 600.0
    """For a phase without a bound that nobody has been through yet."""
    stretch: float = 10.0
    """At most so many times longer on a machine that is short of processors."""


class Patience:
    """Bounds on silence. The time of a step is that of the rank that was through it first, its pauses left
    out: while one rank saves, the others' steps are long only because they wait for it.
    """

    def __init__(self, settings: HangSettings):
        self._settings = settings
        self._steps: dict[int, float] = {}
        self._p99_s: float | None = None
        self._longest_s: dict[Phase, float] = {}
        self._last: dict[int, PageView] = {}
        self._done: dict[int, int] = {}

    def learn(self, views: dict[int, PageView], steps: dict[int, list[StepRecord]]) -> None:
        """What the ranks did since the last look."""
        for rank, records in steps.items():
            self._done[rank] = self._done.get(rank, 0) + len(records)
            if self._done[rank] > 2:
                self._take(records)
        for rank, view in views.items():
            last = self._last.get(rank)
            if last is None or last.pid != view.pid:
                self._done[rank] = 0 if last else self._done.get(rank, 0)
                if view.phase != Phase.START and not view.finished:
                    self._longest_s.setdefault(Phase.START, 0.0)  # over before it was seen
            elif last.phase != view.phase:
                self._longest_s[last.phase] = max(self._longest_s.get(last.phase, 0.0), last.phase_s)
            self._last[rank] = view

    def _take(self, records: list[StepRecord]) -> None:
        for record in records:
            step_s = record.compute_s + record.data_s + record.wait_s
            self._steps[record.step] = min(step_s, self._steps.get(record.step, step_s))
            self._p99_s = None
        while len(self._steps) > _WINDOW:
            del self._steps[next(iter(self._steps))]

    @property
    def step_p99_s(self) -> float:
        """0 before any step."""
        if self._p99_s is None:
            ordered = sorted(self._steps.values())
            self._p99_s = ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0
        return self._p99_s

    def idle_s(self, rank: int) -> float:
        """For how long this rank may be silent and use no processor, in a phase that a step bounds."""
        bound_s = max(self._settings.floor_s, self._settings.factor * self.step_p99_s)
        return bound_s if self._done.get(rank, 0) > 2 else max(bound_s, self._settings.first_step_s)

    def busy_s(self, rank: int) -> float:
        """For how long this rank may be silent and compute."""
        bound_s = max(self._settings.busy_floor_s, self._settings.busy_factor * self.step_p99_s)
        return max(bound_s, self.idle_s(rank))

    def pause_s(self, phase: Phase) -> float:
        """For how long a phase may take that no step bounds."""
        if phase in (Phase.IDLE, Phase.DONE):
            return float("inf")
        seen_s = self._longest_s.get(phase)
        if seen_s is None:
            return self._settings.first_pause_s
        floor_s = self._settings.start_floor_s if phase == Phase.START else self._settings.pause_floor_s
        return max(floor_s, self._settings.pause_factor * seen_s)

    def pauses(self, view: PageView) -> bool:
        """Whether it is at something that may take long, and has not taken too long."""
        return view.phase in UNBOUNDED and view.phase_s < self.pause_s(view.phase)
