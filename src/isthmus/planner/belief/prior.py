"""Prior of the belief: how far each factor may lie from its guess, alike everywhere or within a group.

A run's log seconds are step_log(theta) + what its groups add + a smooth residual + noise. All of it is
Gaussian, so the covariance between two runs (`covariance`) says everything: what one tells of the other.
"""

from typing import NamedTuple

import msgspec
import numpy as np

from isthmus.planner.belief.query import FACTORS, PLACE, Design
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.table import Floats

SPREADS: dict[str, float] = {
    "matmul": 0.12,
    "operands": 0.5,
    "attention": 0.3,
    "elementwise": 0.35,
    "scores": 0.3,
    "loss": 0.4,
    "cast": 0.6,
    "route": 0.6,
    "launch": 0.7,
    "tensor": 0.4,
    "context": 0.6,
    "expert": 0.5,
    "send": 0.7,
    "bubble": 0.25,
    "sync": 0.5,
    "gather": 0.7,
    "optimizer": 0.5,
    "overhead": 1.0,
    "jitter": 0.7,
}
"""Standard deviations of the factors' logarithms, all systems together: products are known best."""
MOVING = ("route", "launch", "expert")
"""What releases change most: Mixture-of-Experts code is young."""
SETTLED = 0.3
"""How much less the other factors drift."""


class Scales(msgspec.Struct, frozen=True, kw_only=True):
    """Standard deviations. Of a group's factors: relative to `SPREADS`; else of log seconds. Chosen on the
    development rows: the defaults of a first guess, moved by turns while errors out of sample fell."""

    framework_factors: float = 0.18
    generation_factors: float = 0.75
    recipe_factors: float = 0.5
    family: float = 0.08
    framework: float = 0.16
    generation: float = 0.12
    chip: float = 0.04
    framework_generation: float = 0.03
    framework_chip: float = 0.08
    framework_release: float = 0.02
    recipe: float = 0.02
    framework_recipe: float = 0.04
    generation_recipe: float = 0.03
    drift_factors: float = 3.0
    """Relative to `SPREADS`, a year, within a framework."""
    drift: float = 0.13
    """A year, within a framework."""
    smooth: float = 0.1
    """Smooth residual of all systems."""
    smooth_reach: float = 1.5
    """Its reach, in the distances of `query.PLACE`."""
    own: float = 0.06
    """Smooth residual of one framework on one generation of chips."""
    own_reach: float = 1.6
    noise: float = 0.03
    """Of a measured step: runs that differ in nothing that is known."""
    scatter: float = 0.045
    """The same of a run that is yet to come, which may be one of those that lie far off."""


def guess() -> Floats:
    """Prior mean of theta."""
    return np.log([getattr(Factors(), name) for name in FACTORS])


def spreads() -> Floats:
    return np.array([SPREADS[name] for name in FACTORS])


OFFSETS: tuple[tuple[str, ...], ...] = (
    ("family",), ("framework",), ("generation",), ("chip",), ("framework", "generation"),
    ("framework", "chip"), ("framework", "release"), ("recipe",), ("framework", "recipe"),
    ("generation", "recipe"),
)  # fmt: skip
"""Groups that share an offset of log seconds."""
FACTOR_GROUPS = (
    ("framework", "framework_factors"),
    ("generation", "generation_factors"),
    ("recipe", "recipe_factors"),
)


def alike(left: Design, right: Design, names: tuple[str, ...]) -> Floats:
    """[left, right]: 1 where all these groups are the same and known."""
    both = np.ones((left.size, right.size))
    for name in names:
        ours, theirs = left.groups[name], right.groups[name]
        both *= (ours[:, None] == theirs[None, :]) & (ours != 0)[:, None]
    return both


def drift_weights() -> Floats:
    return np.array([1.0 if name in MOVING else SETTLED for name in FACTORS])


class Kinship(NamedTuple):
    """What two sets of runs share, whatever the factors are; arrays [left, right]."""

    factors: Floats
    """Weight of the factors' covariance: 1, and more for each group in common."""
    years: Floats
    """Product of their ages, within a framework."""
    rest: Floats
    """Covariance of log seconds beside the factors'."""


def kinship(left: Design, right: Design, scales: Scales) -> Kinship:
    factors = np.ones((left.size, right.size))
    for group, scale in FACTOR_GROUPS:
        factors += getattr(scales, scale) ** 2 * alike(left, right, (group,))
    years = np.outer(left.when, right.when) * alike(left, right, ("framework",))
    rest = scales.drift**2 * years
    for names in OFFSETS:
        rest += offset_scale(scales, names) ** 2 * alike(left, right, names)
    rest += scales.smooth**2 * nearness(left.place, right.place, scales.smooth_reach)
    own = alike(left, right, ("framework", "generation"))
    rest += scales.own**2 * nearness(left.place, right.place, scales.own_reach) * own
    return Kinship(factors, years, rest)


def covariance(kin: Kinship, slopes: tuple[Floats, Floats], scales: Scales) -> Floats:
    """[left, right], of log seconds without noise; `slopes` are `law.step_log`'s derivatives of each."""
    ours, theirs = slopes[0] * spreads(), slopes[1] * spreads()
    moving = (ours * drift_weights()) @ (theirs * drift_weights()).T
    total = (ours @ theirs.T) * kin.factors + kin.rest
    return total + scales.drift_factors**2 * moving * kin.years


def offset_scale(scales: Scales, names: tuple[str, ...]) -> float:
    return getattr(scales, "_".join(names))


def nearness(left: Floats, right: Floats, reach: float) -> Floats:
    """[left, right]: exp(-d^2 / 2), d in units of `reach` distances."""
    units = np.array([distance for _, distance in PLACE]) * reach
    ours, theirs = left / units, right / units
    squares = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)[None, :] - 2 * ours @ theirs.T
    return np.exp(-0.5 * np.maximum(squares, 0.0))
