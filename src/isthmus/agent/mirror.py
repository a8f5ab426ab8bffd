"""Pages of ranks on another machine: what changes there is told, and written to pages here, so that whoever
watches ranks reads all of them alike.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isthmus.agent.node_messages import Changes
from isthmus.faults.layout import SIZE, WORDS, Word
from isthmus.faults.page import page_file

_CHANGE = np.dtype([("at", "<u2"), ("value", "<i8")])
_TIMES = (Word.PHASE_NS, Word.STEP_NS, Word.WAIT_SINCE_NS, Word.BEAT_NS, Word.PULSE_NS)
_DRIFT = 1e-4
"""Of one clock against another, at most."""


@dataclass
class PageTeller:
    """The side of the ranks.

    Args:
        live: the agent's folder, with the pages.
    """

    live: Path
    _told: dict[str, np.ndarray] = field(default_factory=dict)

    def changes(self, processes: set[str]) -> list[Changes]:
        """Since the last call."""
        for process in self._told.keys() - processes:
            del self._told[process]
        found = (self._of(process) for process in sorted(processes))
        return [changes for changes in found if changes]

    def _of(self, process: str) -> Changes | None:
        try:
            page = page_file(self.live, process).read_bytes()
        except OSError:
            return None
        if len(page) != SIZE:
            return None
        now, before = np.frombuffer(page, "<i8"), self._told.get(process, np.zeros(WORDS, "<i8"))
        at = np.flatnonzero(now != before)
        if not len(at):
            return None
        changed = np.empty(len(at), _CHANGE)
        changed["at"], changed["value"] = at, now[at]
        self._told[process] = now
        return Changes(process, changed.tobytes())

    def again(self) -> None:
        """To somebody who knows nothing yet."""
        self._told.clear()


@dataclass
class Mirror:
    """The side of the keeper, for one node. Times become those of this machine's clock.

    Args:
        live: the folder for the pages.
    """

    live: Path
    _pages: dict[str, np.memmap] = field(default_factory=dict)
    _shift_ns: int | None = None
    """Our clock minus theirs, by the message that came the quickest."""
    _shifted_ns: int = 0

    def heard(self, theirs_ns: int, ours_ns: int) -> None:
        """They said what time it is there."""
        new = ours_ns - theirs_ns
        if self._shift_ns is not None:
            new = min(new, self._shift_ns + int(_DRIFT * (ours_ns - self._shifted_ns)))
        self._shift_ns, self._shifted_ns = new, ours_ns

    def write(self, changes: Changes) -> None:
        """Raises ValueError for what is no change of a page."""
        changed = np.frombuffer(changes.words, _CHANGE)
        at, value = changed["at"], changed["value"].copy()
        if len(at) and int(at.max()) >= WORDS:
            raise ValueError(f"a page has {WORDS} words")
        value[np.isin(at, _TIMES) & (value != 0)] += self._shift_ns or 0
        page = self._page(changes.process)
        last = at == Word.MAGIC
        page[at[~last]] = value[~last]
        page[at[last]] = value[last]

    def _page(self, process: str) -> np.memmap:
        if process not in self._pages:
            path = page_file(self.live, process)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(descriptor, SIZE)
            os.close(descriptor)
            self._pages[process] = np.memmap(path, "<i8", "r+", shape=(WORDS,))
        return self._pages[process]

    def drop(self, process: str) -> None:
        """It is gone; its page is read once more, and removed by who does."""
        self._pages.pop(process, None)

    def close(self) -> None:
        """With the pages' files."""
        for process in self._pages:
            page_file(self.live, process).unlink(missing_ok=True)
        self._pages.clear()
