"""What the journal says of the experts: several steps in one event, as one for each would swamp it."""

import torch
from torch import Tensor

from isthmus.journal.events import ExpertsCounted
from isthmus.spec.model import ModelSpec
from isthmus.train.balance import ExpertStats

EVERY_S = 5.0
EXPERTS_PER_S = 200.0
"""For models of many experts events come less often: at most so many counts a second."""


class ExpertWatch:
    """Of one site: `add` after each step, `take` where an event may be due. Holds sums alone."""

    def __init__(self, site: str, model: ModelSpec):
        self._site, self._layers = site, model.moe_layers
        self._every_s = max(EVERY_S, len(self._layers) * model.num_experts / EXPERTS_PER_S)
        self._due_s = 0.0
        self._counts_2LE = torch.zeros(2, len(self._layers), model.num_experts, dtype=torch.int64)
        self._coef_L = torch.zeros(len(self._layers))
        self._start()

    def _start(self) -> None:
        self._steps = 0
        self._counts_2LE.zero_()
        self._entropy_L = torch.zeros(len(self._layers))

    def add(self, stats: ExpertStats) -> None:
        self._steps += 1
        self._counts_2LE += torch.stack([stats.load_LE, stats.dropped_LE]).long()
        self._entropy_L += stats.entropy_L
        self._coef_L = stats.coef_L

    def take(
        self, step: int, now_s: float, similarity: list[float] | None = None, *, last: bool = False
    ) -> ExpertsCounted | None:
        """The steps since the last event; None for a model without MoE layers, and where nothing is due.

        A `similarity` is told at once, also where there were no steps; so are steps if it is the `last` time.
        """
        due = similarity is not None or (self._steps > 0 and (last or now_s >= self._due_s))
        if not self._layers or not due:
            return None
        load, dropped = self._counts_2LE.tolist()
        event = ExpertsCounted(
            site=self._site,
            step=step,
            steps=self._steps,
            layers=self._layers,
            load=load,
            dropped=dropped,
            entropy=_rounded(self._entropy_L / max(1, self._steps)),
            coef=_rounded(self._coef_L),
            similarity=similarity or [],
        )
        self._due_s = now_s + self._every_s
        self._start()
        return event


def _rounded(values_L: Tensor) -> list[float]:
    """Enough digits for people; a long run has many events."""
    return [float(f"{value:.5g}") for value in values_L.tolist()]
