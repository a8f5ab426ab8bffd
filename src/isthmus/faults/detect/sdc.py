"""Silent corruption: ranks that hold the same state hash a slice of it after each step, and the hashes
differ.

The many outvote the few. Ranks are compared at the same step and slice, once all have told or `_PATIENCE`
steps later, from the last 64 hashes that each page keeps: they need not be read at one instant. Chips of
different kinds may round differently, so that only ranks of one kind vote together; one that is alone of its
kind is not judged. Between two ranks, or where a vote is tied, nobody is named. A fault ends with the group,
or when the rank's hash of a slice in which it differed is right again.
"""

from collections import Counter

from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding

_PATIENCE = 64

Subject = int | str
"""A rank; or a kind of chip, whose ranks' vote was tied."""


class SdcDetector:
    def __init__(self, standing: Standing):
        self._standing = standing
        self._held: dict[tuple[int, int], dict[int, int]] = {}
        """Hash by rank, by step and slice."""
        self._wrong: dict[Subject, set[int]] = {}
        """Slices in which a rank differs, or in which a vote was tied."""
        self._generation = -1

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        self._forget(readings)
        for rank, states in readings.states.items():
            for state in states:
                self._held.setdefault((state.step, state.piece), {})[rank] = state.value
        newest = max((step for step, _ in self._held), default=0)
        wanted = set(readings.ranks)
        found: list[Finding] = []
        for place in sorted(self._held):
            votes = self._held[place]
            if wanted <= votes.keys() or place[0] <= newest - _PATIENCE:
                del self._held[place]
                kinds: dict[str, dict[int, int]] = {}
                for rank, value in votes.items():
                    if rank in wanted:
                        kinds.setdefault(readings.chips.get(rank, ""), {})[rank] = value
                for chip, alike in kinds.items():
                    found += self._count(now_s, place, chip, alike) if len(alike) > 1 else []
        return found

    def _forget(self, readings: Readings) -> None:
        """A new group goes over old steps again, with what was wrong replaced or rolled back."""
        if readings.generation in (-1, self._generation):
            return
        self._generation = readings.generation
        self._held.clear()
        for subject in self._wrong:
            self._standing.end(("sdc", subject))
        self._wrong.clear()

    def _count(self, now_s: float, place: tuple[int, int], chip: str, votes: dict[int, int]) -> list[Finding]:
        step, piece = place
        counts = Counter(votes.values()).most_common()
        tied = len(counts) > 1 and 2 * counts[0][1] <= len(votes)
        odd = sorted(rank for rank, value in votes.items() if value != counts[0][0])
        blamed: list[Subject] = [chip] if tied else list(odd)
        for subject in [each for each, pieces in self._wrong.items() if piece in pieces]:
            if subject not in blamed and (subject == chip or subject in votes):
                del self._wrong[subject]
                self._standing.end(("sdc", subject))
        found: list[Finding] = []
        for subject in blamed:
            self._wrong.setdefault(subject, set()).add(piece)
            suspects = tuple(sorted(votes)) if tied else tuple(odd)
            what = f"slice {piece} of the state after step {step} differs: " + (
                f"{len(counts)} versions on {len(votes)} ranks, no majority"
                if tied
                else f"rank {subject} against {counts[0][1]} ranks that agree"
            )
            rank = None if isinstance(subject, str) else subject
            finding = Finding(
                kind="sdc", rank=rank, what=what, began_s=now_s, seen_s=now_s, suspects=suspects
            )
            found += self._standing.begin(("sdc", subject), finding)
        return found
