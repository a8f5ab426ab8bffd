"""What a site's client keeps for a rank 0 that comes in place of another."""

from collections import deque

from isthmus.outer import bridge
from isthmus.outer.site_state import SiteState

UNHEARD_MAX = 1_000
"""More is not kept: between two notes there are a handful."""


class Recall:
    """The last note of rank 0, and what it was told that is not in it.

    Args:
        keeps: whether this rank 0 sends notes at all.
    """

    def __init__(self, keeps: bool = False):
        self._keeps = keeps
        self._told: deque[bridge.LocalMessage] = deque()
        self._first = 0
        """Number of the oldest message in it, counted from the attachment."""
        self.note: SiteState | None = None

    def told(self, message: bridge.LocalMessage) -> None:
        if self._keeps:
            self._told.append(message)
            self._trim(self._first + len(self._told) - UNHEARD_MAX)

    def noted(self, note: SiteState | None) -> None:
        if note is not None:
            self.note = note
            self._trim(note.heard)

    def _trim(self, first: int) -> None:
        while self._told and self._first < first:
            self._told.popleft()
            self._first += 1

    def answer(self, step: int) -> tuple[SiteState, tuple[bridge.LocalMessage, ...]] | None:
        """For ranks that stand at `step`: one may have died before it noted it, or when the others had not
        done it yet. None where they stand elsewhere, or where too much was told since.
        """
        note = self.note
        if note is None or abs(note.step - step) > 1 or note.heard < self._first:
            return None
        return note, tuple(self._told)
