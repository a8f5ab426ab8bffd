"""Published runs predicted by beliefs that did not see them."""

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.errors import NotFoundError
from isthmus.planner.belief.file import shipped
from isthmus.planner.belief.posterior import Estimate, condition
from isthmus.planner.belief.query import Groups, Observation
from isthmus.planner.published.fit import observations
from isthmus.planner.published.rows import Row, read_rows

VARIABLE = "ISTHMUS_PUBLISHED_RUNS"
FOLDS = 10
DRAWS = 3
"""Choices of calibration rows that a figure is the mean of."""


class Run(NamedTuple):
    """A published run that can be modelled and has a time."""

    seen: Observation

    @property
    def id(self) -> str:
        return self.seen.id

    @property
    def step_s(self) -> float:
        return self.seen.step_s

    @property
    def groups(self) -> Groups:
        return self.seen.query.groups

    @property
    def group(self) -> tuple[str, str]:
        """Framework and chip, what one calibration row is for."""
        return self.groups.framework, self.groups.chip


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


def published_runs() -> list[Run]:
    """Of the CSV that the environment names; without it those that the shipped belief rests on."""
    seen = observations(read_published()) if os.environ.get(VARIABLE) else shipped().runs
    return [Run(each) for each in seen]


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
    names = sorted({run.seen.source for run in runs})
    return [[run for run in runs if run.seen.source == name] for name in names]


def by_framework(runs: list[Run]) -> list[list[Run]]:
    """Releases of one system are one source here."""
    names = sorted({run.groups.framework for run in runs})
    return [[run for run in runs if run.groups.framework == name] for name in names]


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
        chosen = {run.id for run in calibration}
        rest = [run for run in part if run.id not in chosen]
        if rest:
            said += predicted([*without(runs, part), *calibration], rest)
    return said


def _one(part: list[Run], group: tuple[str, str], chance: np.random.Generator) -> Run:
    members = [run for run in part if run.group == group]
    return members[int(chance.integers(len(members)))]


def without(runs: list[Run], part: list[Run]) -> list[Run]:
    out = {run.id for run in part}
    return [run for run in runs if run.id not in out]
