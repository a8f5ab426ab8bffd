"""Reads the pages of a node's ranks and asks the detectors."""

import contextlib
from pathlib import Path

from isthmus.errors import CorruptError
from isthmus.faults.finding import Finding
from isthmus.faults.page import PageReader, PageView, page_file


class Watcher:
    """Owns a reader per page.

    Args:
        live: the agent's folder, with the pages.
    """

    def __init__(self, live: Path):
        self._live = live
        self._readers: dict[str, PageReader] = {}
        self.step = -1
        """Optimizer steps done, the highest on the pages that were read last."""

    def look(self, now_s: float, ranks: dict[int, str], generation: int) -> list[Finding]:
        """What the detectors find in the pages of these processes, by rank."""
        views = {rank: view for rank, process in ranks.items() if (view := self._view(process))}
        self.step = max((view.step for view in views.values()), default=-1)
        return []

    def _view(self, process: str) -> PageView | None:
        if process not in self._readers:
            with contextlib.suppress(FileNotFoundError, CorruptError):
                self._readers[process] = PageReader(page_file(self._live, process))
        reader = self._readers.get(process)
        return reader.read() if reader else None

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
