"""How a script gets on, for the journal: a step now and then, from the pages of its ranks."""

import contextlib
import time
from pathlib import Path

from isthmus.errors import CorruptError
from isthmus.faults.page import PageReader
from isthmus.journal.events import StepDone
from isthmus.journal.writer import Journal

EVERY_S = 1.0


class Pace:
    """Owns nothing but a clock: pages are opened anew, once a second.

    Args:
        live: the agent's folder, with the pages.
    """

    def __init__(self, live: Path, site: str, journal: Journal):
        self._live, self._site, self._journal = live, site, journal
        self._due_s = 0.0
        self._step, self._at_s = 0, time.monotonic()

    def look(self) -> None:
        """Tells the newest step that any page has, if it is new, with the time of all since the last told:
        so the figures of effective time add up."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        found = max(map(self._newest, self._live.glob("*.page")), default=None, key=lambda pair: pair[0])
        if found is None or found[0] <= self._step:
            self._at_s = self._at_s if self._step else now_s  # starting is no step
            return
        step, loss, grad_norm, wait_s = (*found[:3], found[3])
        self._journal.emit(
            StepDone(
                site=self._site,
                step=step,
                tokens=0,
                loss=loss,
                lr=0.0,
                grad_norm=grad_norm,
                step_s=now_s - self._at_s,
                wait_s=min(wait_s * (step - self._step), now_s - self._at_s),
                version=0,
            )
        )
        self._step, self._at_s = step, now_s

    def _newest(self, path: Path) -> tuple[int, float, float, float]:
        """(step, loss, gradient norm, wait) of the last step on a page."""
        with contextlib.suppress(OSError, CorruptError, ValueError):
            reader = PageReader(path)
            try:
                step = reader.read().step
                records = reader.records(step - 1)
            finally:
                reader.close()
            if records:
                return step, records[-1].loss, records[-1].grad_norm, records[-1].wait_s
        return 0, 0.0, 0.0, 0.0

    def close(self) -> None:
        """Once more, for the last steps."""
        self._due_s = 0.0
        self.look()
