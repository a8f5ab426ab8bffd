"""A rank that has stopped writing: for how long, and what its process does meanwhile."""

from collections import deque
from typing import Literal

import msgspec

from isthmus.faults.detect.readings import Process
from isthmus.faults.page import PageView

Activity = Literal["stopped", "asleep", "blocked", "starved", "busy", "gone", "unknown"]

_LOOK_S = 0.2
"""Time between two looks that counts at most: what a watcher that was itself held up has not seen is no
silence."""
_WINDOW_S = 1.0
_IDLE_CORES = 0.1
_PULSE_S = 1.0


class _Sample(msgspec.Struct, frozen=True):
    at_s: float
    """On the clock of what was seen of this silence."""
    letter: str
    cpu_s: float


class Quiet:
    """Of one rank."""

    def __init__(self) -> None:
        self._pid = self._generation = -1
        self._now_s: float | None = None
        self._samples: deque[_Sample] = deque()
        self._view: PageView | None = None
        self.beat_s = float("-inf")
        """When it wrote last."""
        self.silent_s = 0.0
        """For how long it has been seen to be silent."""

    def look(self, now_s: float, view: PageView, process: Process | None) -> bool:
        """Whether it wrote since the last look."""
        passed_s = _LOOK_S if self._now_s is None else min(_LOOK_S, now_s - self._now_s)
        beat_s = now_s - view.quiet_s
        wrote = beat_s > self.beat_s + 1e-4 or view.pid != self._pid or view.generation != self._generation
        self._now_s, self._view, self._pid, self._generation = now_s, view, view.pid, view.generation
        if wrote:
            self.beat_s, self.silent_s = beat_s, min(view.quiet_s, passed_s)
            self._samples.clear()
        else:
            self.silent_s += passed_s
        if process is not None:
            self._samples.append(_Sample(self.silent_s, process.letter, process.cpu_s))
        while len(self._samples) > 1 and self._samples[1].at_s <= self.silent_s - _WINDOW_S:
            self._samples.popleft()
        return wrote

    @property
    def window_s(self) -> float:
        """For how long its process has been looked at, at most a second."""
        return self._samples[-1].at_s - self._samples[0].at_s if self._samples else 0.0

    @property
    def cores(self) -> float:
        """Processors it used in the last second."""
        used_s = self._samples[-1].cpu_s - self._samples[0].cpu_s if self._samples else 0.0
        return used_s / self.window_s if self.window_s > 0 else 0.0

    @property
    def activity(self) -> Activity:
        """What its process was at in the last second."""
        if not self._samples:
            return "unknown"
        letters = [sample.letter for sample in self._samples]
        share = lambda wanted: sum(letter in wanted for letter in letters) / len(letters)  # noqa: E731
        if letters[-1] in "ZX":
            return "gone"
        if share("T") == 1.0:
            return "stopped"
        if self.cores >= _IDLE_CORES:
            return "busy"
        if share("R") > 0.3:
            return "starved"
        return "blocked" if share("D") > 0.5 else "asleep"

    @property
    def locked(self) -> bool:
        """No other thread of it ran either, though one is there: the interpreter lock is held."""
        pulse_s = self._view.pulse_s if self._view else None
        return pulse_s is not None and pulse_s > _PULSE_S
