"""Published runs predicted by beliefs that did not see them."""

import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.errors import NotFoundError
from isthmus.planner.belief.posterior import Estimate, condition
from isthmus.planner.belief.query import Observation
from isthmus.planner.published.case import Case, case_of
from isthmus.planner.published.query import observation_of
from isthmus.planner.published.rows import Row, read_rows

VARIABLE = "ISTHMUS_PUBLISHED_RUNS"
FOLDS = 10
DRAWS = 3
"""Choices of calibration rows that a figure is the mean of."""


class Run(NamedTuple):
    """A published row that can be modelled and has a time."""

    row: Row
    case: Case
    seen: Observation

    @property
    def step_s(self) -> float:
        return self.case.step_s

    @property
    def group(self) -> tuple[str, str]:
        """Framework and chip, what one calibration row is for."""
        return self.case.framework.name, self.case.chip.name


class Said(NamedTuple):
    """A run and what was predicted of it."""

    run: Run
    estimate: Estimate

    @property
    def error(self) -> float:
        return abs(self.estimate.step_s / self.run.step_s - 1)

    @property
    def inside(self) -> bool:
        return self.estimate.low_s <= self.run.step_s <= self.estimate.high_s


def read_published() -> list[Row]:
    """The rows named by the environment; NotFoundError without them."""
    path = os.environ.get(VARIABLE)
    if not path:
        raise NotFoundError(
            "no published runs to be judged by",
            hint=f"set {VARIABLE} to a CSV of measured runs (its columns are in docs/cost-model.md)",
        )
    return read_rows(path)


def runs_of(rows: Iterable[Row]) -> list[Run]:
    cases = [(row, case_of(row)) for row in rows]
    return [
        Run(row, case, observation_of(case))
        for row, case in cases
        if not isinstance(case, str) and case.step_s > 0
    ]


def predicted(train: list[Run], test: list[Run]) -> list[Said]:
    """`test` by the belief after `train`."""
    posterior = condition([run.seen for run in train])
    estimates = posterior.predict([run.seen.query for run in test])
    return [Said(run, estimate) for run, estimate in zip(test, estimates, strict=True)]


def by_fold(runs: list[Run]) -> list[list[Run]]:
    """Ten parts of a seeded shuffle."""
    order: NDArray[np.intp] = np.random.default_rng(0).permutation(len(runs))
    return [[runs[index] for index in order[part::FOLDS]] for part in range(FOLDS)]


def by_source(runs: list[Run]) -> list[list[Run]]:
    names = sorted({run.row.source for run in runs})
    return [[run for run in runs if run.row.source == name] for name in names]


def by_framework(runs: list[Run]) -> list[list[Run]]:
    """Releases of one system are one source here."""
    names = sorted({run.case.framework.name for run in runs})
    return [[run for run in runs if run.case.framework.name == name] for name in names]


def left_out(runs: list[Run], parts: list[list[Run]]) -> list[Said]:
    """Each part by the belief after all the others."""
    return [each for part in parts for each in predicted(without(runs, part), part)]


def left_out_but_one(runs: list[Run], parts: list[list[Run]], draw: int) -> list[Said]:
    """Each part by the belief after all the others and one row of each framework and chip of the part; these
    rows are not scored. A group of one row is left out."""
    said: list[Said] = []
    chance = np.random.default_rng(draw)
    for part in parts:
        calibration = [_one(part, group, chance) for group in sorted({run.group for run in part})]
        chosen = {run.case.id for run in calibration}
        rest = [run for run in part if run.case.id not in chosen]
        if rest:
            said += predicted([*without(runs, part), *calibration], rest)
    return said


def _one(part: list[Run], group: tuple[str, str], chance: np.random.Generator) -> Run:
    members = [run for run in part if run.group == group]
    return members[int(chance.integers(len(members)))]


def without(runs: list[Run], part: list[Run]) -> list[Run]:
    out = {run.case.id for run in part}
    return [run for run in runs if run.case.id not in out]
