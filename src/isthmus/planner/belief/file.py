"""The belief as a file: the measured runs it rests on, and the solution, so that reading solves nothing."""

from functools import cache
from importlib.resources import files

import msgspec
import numpy as np

from isthmus.errors import CorruptError
from isthmus.planner.belief.law import step_log
from isthmus.planner.belief.posterior import Posterior, cholesky, condition
from isthmus.planner.belief.prior import Scales, covariance, kinship
from isthmus.planner.belief.query import FACTORS, Observation, design

FILE = "belief.json"


class Belief(msgspec.Struct, frozen=True, kw_only=True):
    """`theta`, `weights` and `noise` are what `condition(runs, scales)` finds."""

    command: str
    """That made the file."""
    rests_on: str
    """How many runs of which sources."""
    factors: list[str]
    """Names of theta's entries."""
    scales: Scales
    theta: list[float]
    weights: list[float]
    noise: list[float]
    runs: list[Observation]

    def posterior(self) -> Posterior:
        known = design([each.query for each in self.runs])
        theta, noise = np.array(self.theta), np.array(self.noise)
        slopes = step_log(theta, known)[1]
        kin = kinship(known, known, self.scales)
        total = covariance(kin, (slopes, slopes), self.scales) + np.diag(noise)
        return Posterior(self.scales, known, theta, np.array(self.weights), noise, cholesky(total))


def make_belief(runs: list[Observation], command: str, scales: Scales | None = None) -> Belief:
    rounded = [_rounded(each) for each in runs]
    found = condition(rounded, scales)
    sources = {each.source for each in runs}
    return Belief(
        command=command,
        factors=list(FACTORS),
        rests_on=f"fitted on {len(runs)} published runs of {len(sources)} sources",
        scales=found.scales,
        theta=_digits(found.theta.tolist(), 6),
        weights=_digits(found.weights.tolist(), 6),
        noise=_digits(found.noise.tolist(), 6),
        runs=rounded,
    )


def _digits(values: list[float], digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def _rounded(run: Observation) -> Observation:
    """Five digits are more than any of this is known to."""
    plain = msgspec.to_builtins(run)

    def cut(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.5g}")
        if isinstance(value, list):
            return [cut(each) for each in value]
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        return value

    return msgspec.convert(cut(plain), Observation)


def encode(belief: Belief) -> bytes:
    """A run a line, so that a new fit shows what changed."""
    plain = msgspec.to_builtins(belief)
    runs = plain.pop("runs")
    head = msgspec.json.encode(plain)[:-1]
    lines = b",\n".join(msgspec.json.encode(each) for each in runs)
    return head + b',"runs":[\n' + lines + b"\n]}\n"


def decode(data: bytes, where: str) -> Belief:
    try:
        belief = msgspec.json.decode(data, type=Belief)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"not a belief: {error}", where=where, hint="fit it again") from error
    if belief.factors != list(FACTORS) or len(belief.weights) != len(belief.runs):
        raise CorruptError("the belief is of another cost model", where=where, hint="fit it again")
    return belief


@cache
def shipped() -> Belief:
    """The one that comes with the package."""
    data = files("isthmus.planner.belief").joinpath(FILE)
    return decode(data.read_bytes(), FILE)


@cache
def shipped_posterior() -> Posterior:
    return shipped().posterior()


def calibrated(belief: Belief, runs: list[Observation]) -> Posterior:
    """The belief after more runs: one of a framework and chip moves mostly what these share. A run that the
    belief rests on already is not counted twice."""
    known = {(each.id, each.source) for each in belief.runs}
    new = [each for each in runs if (each.id, each.source) not in known]
    return condition([*belief.runs, *new], belief.scales) if new else belief.posterior()
