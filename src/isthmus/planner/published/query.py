"""A case as the belief asks about it."""

import re

from isthmus.planner.belief.features import features_of, place_of
from isthmus.planner.belief.query import Observation, Query
from isthmus.planner.published.case import Case
from isthmus.planner.published.frameworks import groups_of

FIRST_RELEASE = 26.0 + 4 / 12
"""Releases are dated from 26.04, the middle of those that were fitted."""
FAR = (-2.0, 0.5)
"""Years; those that were fitted lie between these, and a drift is not followed beyond."""


def query_of(case: Case) -> Query:
    return Query(
        features=features_of(case),
        groups=groups_of(case.framework, case.chip, case.recipe),
        place=place_of(case.model, case.layout),
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


def release_years(release: str) -> float:
    """'26.08.01' is a third of a year after 26.04; a release that is no date counts as that."""
    said = re.match(r"(\d\d)\.(\d\d)", release)
    years = int(said.group(1)) + int(said.group(2)) / 12 - FIRST_RELEASE if said else 0.0
    return min(max(years, FAR[0]), FAR[1])
