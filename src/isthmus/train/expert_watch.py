"""What the journal says of the experts: several steps in one event, as one for each would swamp it."""

from dataclasses import dataclass, field

from torch import Tensor

from isthmus.journal.events import ExpertsCounted
from isthmus.train.balance import ExpertStats

EVERY_S = 5.0
EXPERTS_PER_S = 200.0
"""For models of many experts events come less often: at most so many counts a second."""


@dataclass
class ExpertWatch:
    """Of one site: `add` after each step, `take` where an event is due."""

    site: str
    layers: list[int]
    """Indices of the model's MoE layers."""
    due_s: float = 0.0
    """When the next event is due, by the clock of `take`."""
    _seen: list[ExpertStats] = field(default_factory=list)

    def add(self, stats: ExpertStats) -> None:
        self._seen.append(stats)

    def take(self, step: int, now_s: float, similarity: list[float] | None = None) -> ExpertsCounted | None:
        """The steps since the last one; None if there were none or no MoE layers, or if it is too early and
        there is no `similarity` to tell.
        """
        if not self._seen or not self.layers or (now_s < self.due_s and similarity is None):
            return None
        seen, self._seen = self._seen, []
        self.due_s = now_s + max(EVERY_S, seen[0].load_LE.numel() / EXPERTS_PER_S)
        return ExpertsCounted(
            site=self.site,
            step=step,
            steps=len(seen),
            layers=self.layers,
            load=_whole(sum(each.load_LE for each in seen)),
            dropped=_whole(sum(each.dropped_LE for each in seen)),
            entropy=_rounded(sum(each.entropy_L for each in seen) / len(seen)),
            coef=_rounded(seen[-1].coef_L),
            similarity=similarity or [],
        )


def _whole(counts_LE: Tensor | int) -> list[list[int]]:
    assert isinstance(counts_LE, Tensor)
    return counts_LE.long().tolist()


def _rounded(values_L: Tensor | float) -> list[float]:
    """Enough digits for people; a long run has many events."""
    assert isinstance(values_L, Tensor)
    return [float(f"{value:.5g}") for value in values_L.tolist()]
