"""What the belief says of each row of a CSV: time, throughput, memory, with an interval and its grounds."""

import msgspec

from isthmus.errors import InputError
from isthmus.planner.belief.file import calibrated, shipped, shipped_posterior
from isthmus.planner.belief.posterior import Estimate, Posterior
from isthmus.planner.published.case import Case, case_of
from isthmus.planner.published.fit import observations
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
    cases = [case_of(row) for row in rows]
    _check_chips(rows, cases)
    posterior, grounds = _grounds(calibration or [])
    known = [case for case in cases if not isinstance(case, str)]
    estimates = iter(posterior.predict([query_of(case) for case in known]))
    return [
        Score(id=row.id, reason=case)
        if isinstance(case, str)
        else _score(row, case, next(estimates), grounds)
        for row, case in zip(rows, cases, strict=True)
    ]


def _check_chips(rows: list[Row], cases: list[Case | str]) -> None:
    """One strange chip is its row's reason; nothing but strange chips is a wrong file."""
    for case in cases:
        if not isinstance(case, str) or "unknown chip" not in case:
            return
    if rows:
        message, _, hint = str(cases[0]).partition(" (")
        raise InputError(message, where=f"line {rows[0].line}", hint=hint.removesuffix(")"))


def _grounds(calibration: list[Row]) -> tuple[Posterior, list[str]]:
    """The posterior, and what it rests on."""
    said = [shipped().rests_on]
    if not calibration:
        return shipped_posterior(), said
    runs = observations(calibration)
    if not runs:
        raise InputError(
            "no calibration row can be modelled and has a time",
            hint="give rows with dimensions, chip, layout and tokens/s, TFLOPS, MFU or a step time",
        )
    return calibrated(shipped(), runs), [*said, f"calibrated by {', '.join(each.id for each in runs)}"]


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
