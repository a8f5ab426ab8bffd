"""The belief after measured runs: Gauss-Newton on the linearised law, and what it predicts.

With residuals r = log t - step_log(theta) + J (theta - guess), K the prior covariance of the runs and N the
noise, a = (K + N)^-1 r; the factors move to guess + P J' a, and J is taken there anew. Runs that lie far off
count less: their noise is that of Student's t with `TAIL` degrees of freedom (Lange et al. 1989).
"""

import math
from dataclasses import dataclass

import numpy as np

from isthmus.planner.belief.law import step_log
from isthmus.planner.belief.prior import (
    FACTOR_GROUPS,
    OFFSETS,
    Scales,
    alike,
    covariance,
    drift_weights,
    guess,
    kinship,
    offset_scale,
    spreads,
)
from isthmus.planner.belief.query import (
    FACTORS,
    IN_STAGE,
    PLACE,
    Design,
    Features,
    Groups,
    Observation,
    Query,
    design,
)
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.table import Floats

ROUNDS = 8
TAIL = 4.0
NINE_OF_TEN = 1.645


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a step: the middle, and where nine of ten such runs lie."""

    step_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class Posterior:
    scales: Scales
    runs: Design
    theta: Floats
    weights: Floats
    """a of the module's docstring, [run]."""
    noise: Floats
    """Variance, [run]."""
    root: Floats
    """Cholesky factor of K + N."""

    def predict(self, queries: list[Query]) -> list[Estimate]:
        if not queries:
            return []
        wanted = design(queries)
        logs, slopes = step_log(self.theta, wanted)
        kin = kinship(wanted, self.runs, self.scales)
        known = covariance(kin, (slopes, self._slopes()), self.scales)
        means = logs - slopes @ (self.theta - guess()) + known @ self.weights
        own = np.diag(covariance(kinship(wanted, wanted, self.scales), (slopes, slopes), self.scales))
        gained = (np.linalg.solve(self.root, known.T) ** 2).sum(axis=0) if self.runs.size else 0.0
        spread = np.sqrt(np.maximum(own - gained, 0.0) + wanted.doubt**2 + self.scales.scatter**2)
        spread *= NINE_OF_TEN
        return [
            Estimate(math.exp(mean), math.exp(mean - each), math.exp(mean + each))
            for mean, each in zip(means.tolist(), spread.tolist(), strict=True)
        ]

    def _slopes(self) -> Floats:
        return step_log(self.theta, self.runs)[1]

    def factors(self, groups: Groups, when: float = 0.0, fused: bool = True) -> Factors:
        """Of a system that shares these groups with the measured runs: without the smooth residual."""
        slopes = self._slopes()
        pull = slopes * self.weights[:, None]
        one = design([_somewhere(groups, when)])
        theta = self.theta.copy()
        for group, scale in FACTOR_GROUPS:
            shared = alike(one, self.runs, (group,))[0]
            theta += (getattr(self.scales, scale) * spreads()) ** 2 * (shared @ pull)
        years = alike(one, self.runs, ("framework",))[0] * self.runs.when * when
        theta += (self.scales.drift_factors * drift_weights() * spreads()) ** 2 * (years @ pull)
        total = self.scales.drift**2 * float(years @ self.weights)
        for names in OFFSETS:
            shared = alike(one, self.runs, names)[0]
            total += offset_scale(self.scales, names) ** 2 * float(shared @ self.weights)
        values = dict(zip(FACTORS, np.exp(theta).tolist(), strict=True))
        return Factors(**values, total=math.exp(total), fused_attention=fused)


def _somewhere(groups: Groups, when: float) -> Query:
    ones = Features(compute=[1.0] * IN_STAGE)
    return Query(features=ones, groups=groups, place=[0.0] * len(PLACE), when=when)


def condition(runs: list[Observation], scales: Scales | None = None) -> Posterior:
    """The belief after these runs; after none, the prior."""
    scales = scales or Scales()
    known = design([each.query for each in runs])
    seen = np.log([each.step_s for each in runs])
    theta, noise = guess(), scales.noise**2 + known.doubt**2
    weights, root = np.zeros(known.size), np.zeros((known.size, known.size))
    kin = kinship(known, known, scales)
    for turn in range(ROUNDS if runs else 0):
        logs, slopes = step_log(theta, known)
        total = covariance(kin, (slopes, slopes), scales) + np.diag(noise)
        root = cholesky(total)
        inverse: Floats = np.linalg.inv(total).astype(np.float64)
        weights = inverse @ (seen - logs + slopes @ (theta - guess()))
        if turn < ROUNDS - 1:
            noise = (scales.noise**2 + known.doubt**2) * _tails(weights, np.diag(inverse))
            theta = theta + np.clip(guess() + spreads() ** 2 * (slopes.T @ weights) - theta, -0.5, 0.5)
    return Posterior(scales, known, theta, weights, noise, root)


def cholesky(total: Floats) -> Floats:
    return np.linalg.cholesky(total).astype(np.float64)


def _tails(weights: Floats, precisions: Floats) -> Floats:
    """Factor on each run's noise, from its residual if it were left out, in standard deviations."""
    squares = weights**2 / precisions
    return 1 / np.clip((TAIL + 1) / (TAIL + squares), 0.05, 1.5)
