"""Wall clocks of nodes that are apart, or that jump.

An offset is wrong by at most half of the time that request and answer took; of the last eight the one with
the shortest way counts (RFC 5905, sections 8 and 10).
"""

from collections import deque

import msgspec

from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding

_FILTER = 8


class ClockSettings(msgspec.Struct, frozen=True, kw_only=True):
    offset_s: float = 0.5
    jump_s: float = 0.25
    """Between the last sample and what the ones before it agree on."""


class Offset(msgspec.Struct, frozen=True):
    offset_s: float
    """Of the other clock, beside ours."""
    delay_s: float
    """That the way there and back took."""


class ClockDetector:
    def __init__(self, standing: Standing, settings: ClockSettings | None = None):
        self._settings = settings or ClockSettings()
        self._standing = standing
        self._last: dict[str, deque[Offset]] = {}

    def observe(self, now_s: float, name: str, new: Offset) -> list[Finding]:
        """What is new after a measurement against the clock of `name`."""
        last = self._last.setdefault(name, deque(maxlen=_FILTER))
        best = min(last, key=lambda offset: offset.delay_s, default=new)
        moved_s = new.offset_s - best.offset_s
        found: list[Finding] = []
        if abs(moved_s) > self._settings.jump_s + (new.delay_s + best.delay_s) / 2:
            what = f"the clock of {name} jumped by {moved_s:+.3f} s"
            found = self._begin(now_s, ("clock", name, "jump"), name, what)
            last.clear()
        else:
            self._standing.end(("clock", name, "jump"))
        last.append(new)
        best = min(last, key=lambda offset: offset.delay_s)
        if abs(best.offset_s) - best.delay_s / 2 > self._settings.offset_s:
            what = f"the clock of {name} is off by {best.offset_s:+.3f} s (within {best.delay_s / 2:.3f} s)"
            return found + self._begin(now_s, ("clock", name, "offset"), name, what)
        self._standing.end(("clock", name, "offset"))
        return found

    def _begin(self, now_s: float, key: tuple[str, str, str], name: str, what: str) -> list[Finding]:
        finding = Finding(
            kind="config", rank=None, place=name, what=what, began_s=now_s, seen_s=now_s, lasting=False
        )
        return self._standing.begin(key, finding)
