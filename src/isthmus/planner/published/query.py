"""A case as the belief asks about it."""

import math
import re

from isthmus.planner.belief.query import Groups, Observation, Query
from isthmus.planner.published.case import Case
from isthmus.planner.published.features import features_of

FIRST_RELEASE = 26.0 + 4 / 12
"""Releases are dated from 26.04, the middle of those that were fitted."""
FAR = (-2.0, 0.5)
"""Years; those that were fitted lie between these, and a drift is not followed beyond."""


def query_of(case: Case) -> Query:
    return Query(
        features=features_of(case),
        groups=groups_of(case),
        place=_place(case),
        when=release_years(case.framework.release),
        doubt=round(case.doubt, 4),
    )


def observation_of(case: Case) -> Observation:
    """Of a case with a measured step."""
    return Observation(
        id=case.id,
        source=case.source,
        query=query_of(case),
        step_s=case.step_s,
        model=case.name,
        tokens=case.tokens_per_chip,
    )


def groups_of(case: Case) -> Groups:
    return Groups(
        framework=case.framework.name,
        family=case.framework.family,
        release=case.framework.release,
        generation=case.chip.generation,
        chip=case.chip.name,
        recipe=case.recipe,
    )


def release_years(release: str) -> float:
    """'26.08.01' is a third of a year after 26.04; a release that is no date counts as that."""
    said = re.match(r"(\d\d)\.(\d\d)", release)
    years = int(said.group(1)) + int(said.group(2)) / 12 - FIRST_RELEASE if said else 0.0
    return min(max(years, FAR[0]), FAR[1])


def _place(case: Case) -> list[float]:
    """As `belief.query.PLACE`."""
    layout, model = case.layout, case.model
    values = [
        math.log(model.hidden_size / layout.tp),
        math.log(model.hidden_size),
        math.log(layout.micro_batch * layout.seq_len / layout.cp),
        math.log(layout.seq_len),
        math.log(layout.dp * layout.cp),
        math.log(layout.pp),
        math.log(layout.virtual),
        math.log(layout.micro_batches),
        math.log(layout.tp),
        math.log(1 + model.num_experts),
        math.log(layout.ep),
        {"none": 0.0, "selective": 0.5, "full": 1.0}[layout.recompute],
        model.num_layers / 40,
    ]
    return [round(value, 4) for value in values]
