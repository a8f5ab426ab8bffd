"""Made-up runs with known factors."""

import numpy as np

from isthmus.planner.belief.law import step_log
from isthmus.planner.belief.prior import guess
from isthmus.planner.belief.query import (
    FACTORS,
    IN_STAGE,
    PLACE,
    Features,
    Groups,
    Observation,
    Query,
    design,
)


def query(seed: int, framework: str = "one", chip: str = "a100", place: float = 0.0) -> Query:
    """Ideal seconds drawn by the seed; all components matter."""
    chance = np.random.default_rng(seed)
    features = Features(
        compute=(chance.dirichlet(np.ones(IN_STAGE)) * chance.uniform(1, 10)).tolist(),
        bubble=chance.uniform(0, 0.05, IN_STAGE).tolist(),
        sync=float(chance.uniform(0, 2)),
        gather=float(chance.uniform(0, 0.2)),
        window=float(chance.choice([1.0, 0.125])),
        optimizer=float(chance.uniform(0, 0.2)),
        doublings=float(chance.integers(0, 8)),
    )
    groups = Groups(framework=framework, family="made", generation="made", chip=chip, recipe="bf16")
    return Query(features=features, groups=groups, place=[place] * len(PLACE))


def observe(asked: Query, name: str, offset: float = 0.0, **moved: float) -> Observation:
    """What the query takes if these factors' logarithms differ from the guess, and all of it by `offset`."""
    theta = guess()
    for factor, shift in moved.items():
        theta[FACTORS.index(factor)] += shift
    seconds = float(np.exp(step_log(theta, design([asked]))[0][0] + offset))
    return Observation(id=name, source="made", query=asked, step_s=seconds)
