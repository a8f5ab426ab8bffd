"""How a script gets on, for the journal: a step now and then, from the pages of its ranks."""

import contextlib
import time
from pathlib import Path

from isthmus.errors import CorruptError
from isthmus.faults.page import PageReader, StepRecord
from isthmus.journal.events import StepDone
from isthmus.journal.writer import Journal

EVERY_S = 1.0


class Pace:
    """Owns a reader per page: what a process has written is there for as long, though its page is gone.

    Args:
        live: the agent's folder, with the pages.
    """

    def __init__(self, live: Path, site: str, journal: Journal):
        self._live, self._site, self._journal = live, site, journal
        self._readers: dict[Path, PageReader] = {}
        self._due_s = 0.0
        self._step, self._at_s = 0, time.monotonic()

    def look(self) -> None:
        """Tells the newest step that any page has, if it is new, with the time of all since the last told:
        so the figures of effective time add up."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        newest = self._newest()
        if newest is None or newest.step <= self._step:
            self._at_s = self._at_s if self._step else now_s  # starting is no step
            return
        steps, passed_s = newest.step - self._step, now_s - self._at_s
        self._journal.emit(
            StepDone(
                site=self._site,
                step=newest.step,
                tokens=0,
                loss=newest.loss,
                lr=0.0,
                grad_norm=newest.grad_norm,
                step_s=passed_s,
                wait_s=min(newest.wait_s * steps, passed_s),
                version=0,
                steps=steps,
            )
        )
        self._step, self._at_s = newest.step, now_s

    def _newest(self) -> StepRecord | None:
        """The last step of the page that has come the furthest. Pages that are gone are read once more."""
        paths = set(self._live.glob("*.page"))
        for path in paths - self._readers.keys():
            with contextlib.suppress(OSError, CorruptError):
                self._readers[path] = PageReader(path)
        records = [last for reader in self._readers.values() if (last := _last(reader))]
        for path in self._readers.keys() - paths:
            self._readers.pop(path).close()
        return max(records, default=None, key=lambda record: record.step)

    def close(self) -> None:
        """Once more, for the last steps."""
        self._due_s = 0.0
        self.look()
        for reader in self._readers.values():
            reader.close()


def _last(reader: PageReader) -> StepRecord | None:
    records = reader.records(reader.read().step - 1)
    return records[-1] if records else None
