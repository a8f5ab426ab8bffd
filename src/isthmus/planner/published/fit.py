"""Published rows to the belief that is shipped."""

from isthmus.planner.belief.file import Belief, make_belief
from isthmus.planner.belief.query import Observation
from isthmus.planner.published.case import case_of
from isthmus.planner.published.query import observation_of
from isthmus.planner.published.rows import Row


def observations(rows: list[Row]) -> list[Observation]:
    """Of the rows that can be modelled and have a time."""
    cases = [case_of(row) for row in rows]
    return [observation_of(case) for case in cases if not isinstance(case, str) and case.step_s > 0]


def fit(rows: list[Row], command: str) -> Belief:
    return make_belief(observations(rows), command)
