"""What the belief says of each row of a CSV: time, throughput, memory, with an interval and its grounds."""

import msgspec

from isthmus.errors import InputError
from isthmus.planner.belief.file import calibrated, shipped, shipped_posterior
from isthmus.planner.belief.posterior import Estimate, Posterior
from isthmus.planner.belief.query import FACTORS, Observation
from isthmus.planner.published.case import Case, case_of
from isthmus.planner.published.fit import observations
from isthmus.planner.published.kinds import chips_of
from isthmus.planner.published.memory import peak_bytes
from isthmus.planner.published.query import query_of
from isthmus.planner.published.rows import Row


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """None where the row cannot be modelled."""

    id: str
    step_time_s: float | None = None
    tokens_per_s_per_chip: float | None = None
    tflops_per_chip: float | None = None
    """As the row's source counts FLOPs."""
    memory_gb: float | None = None
    """Peak of the fullest chip, GiB."""
    interval: tuple[float, float] | None = None
    """Nine of ten such runs have a step_time_s between these."""
    provenance: list[str] = []
    reason: str = ""
    """Why it cannot be modelled."""


def score_rows(rows: list[Row], calibration: list[Row] | None = None) -> list[Score]:
    """In the order of `rows`. InputError if none of them has a chip that is known."""
    _check_chips(rows)
    cases = [case_of(row) for row in rows]
    posterior, grounds = _grounds(calibration or [])
    known = [case for case in cases if not isinstance(case, str)]
    estimates = iter(posterior.predict([query_of(case) for case in known]))
    return [
        Score(id=row.id, reason=case)
        if isinstance(case, str)
        else _score(row, case, next(estimates), grounds)
        for row, case in zip(rows, cases, strict=True)
    ]


def _check_chips(rows: list[Row]) -> None:
    """One strange chip is its row's reason; nothing but strange chips is a wrong file."""
    refused: list[InputError] = []
    for row in rows:
        try:
            chips_of(row, [])
        except InputError as error:
            refused.append(error)
        else:
            return
    if rows:
        raise InputError(refused[0].message, where=f"line {rows[0].line}", hint=refused[0].hint)


def _grounds(calibration: list[Row]) -> tuple[Posterior, list[str]]:
    """The posterior, and what it rests on."""
    said = [shipped().rests_on]
    if not calibration:
        return shipped_posterior(), said
    measured = observations(calibration)
    if not measured:
        raise InputError(
            "no calibration row can be modelled and has a time",
            hint="give rows with dimensions, chip, layout and tokens/s, TFLOPS, MFU or a step time",
        )
    runs = believable(measured)
    if not runs:
        worst = measured[0]
        raise InputError(
            f"no calibration row has a possible time: a step of '{worst.id}' took {worst.step_s:.3g} s",
            hint="look at the unit of what was measured, and at its layout and batch",
        )
    used = [each.id for each in runs]
    said.append(f"calibrated by {', '.join(used)}")
    said += [f"not by {each.id}: its time is not possible" for each in measured if each.id not in used]
    return calibrated(shipped(), runs), said


SLOW = 100.0
"""Times the expected step: a unit was mistaken."""


def believable(runs: list[Observation]) -> list[Observation]:
    """Those that took no less than their matrix products at the chip's peak rate, and not absurdly long."""
    matmul = FACTORS.index("matmul")
    expected = shipped_posterior().predict([run.query for run in runs])
    return [
        run
        for run, estimate in zip(runs, expected, strict=True)
        if run.query.features.compute[matmul] < run.step_s < SLOW * estimate.step_s
    ]


def _score(row: Row, case: Case, estimate: Estimate, grounds: list[str]) -> Score:
    rate = case.tokens_per_chip / estimate.step_s
    return Score(
        id=case.id,
        step_time_s=estimate.step_s,
        tokens_per_s_per_chip=rate,
        tflops_per_chip=rate * case.reported_flops / 1e12,
        memory_gb=peak_bytes(case, row) / 2**30,
        interval=(estimate.low_s, estimate.high_s),
        provenance=[*grounds, *_sheet(case), *(f"assumed: {each}" for each in case.assumed)],
    )


def _sheet(case: Case) -> list[str]:
    """Where the chips' values are from."""
    told: list[str] = []
    for chip in {chip.name: chip for chip in case.chips}.values():
        believed = [field for field, origin in chip.origins.items() if origin == "believed"]
        extra = f", only believed: {', '.join(believed)}" if believed else ""
        told.append(f"datasheet of {chip.name}{extra}")
    return told
