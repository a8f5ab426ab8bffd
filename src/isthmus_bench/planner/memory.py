"""Predicted against measured memory: published runs, closed numbers of a paper, processes of ours."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean, median
from typing import NamedTuple

import msgspec

from isthmus.planner.cost.convention import GIB, MEGATRON
from isthmus.planner.cost.memory_fit import Measured, MemoryFit, fit_memory
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.stage_memory import StageMemory, even_bounds, pipeline_memory
from isthmus.planner.layout import Layout, Recompute
from isthmus.planner.models.known import KnownModel
from isthmus.planner.published.case import case_of
from isthmus.planner.published.memory import peak_bytes
from isthmus.planner.published.rows import Row
from isthmus.planner.published.usual import MemoryCase, memory_case
from isthmus.spec.model import ModelSpec
from isthmus_bench.document import Result
from isthmus_bench.planner import memory_process
from isthmus_bench.planner.folds import read_published
from isthmus_bench.planner.memory_process import CASES, ProcessCase

PEERS = {
    "Calculon (parameters and optimizer, its own 8 cases)": 0.0849,
    "Sailor (as published, its own rows)": 0.0556,
}
USUAL_GIB = 80.0
PAPER_PEERS = {"Calculon (states)": 0.0849, "Calculon (activations)": 0.0208}


class Judged(NamedTuple):
    """A case and what was predicted of it by a fit that did not see it."""

    case: MemoryCase
    predicted: float
    """Bytes."""
    plain: float
    """Bytes, by the convention alone."""

    @property
    def error(self) -> float:
        return self.predicted / used_bytes(self.case) - 1


def run(quick: bool) -> list[Result]:
    """A minute, for the processes of ours; `quick` runs one of them."""
    rows = read_published()
    judged = judge(cases_of(rows))
    ran = [each for each in judged if each.case.used_gib]
    own = processes(CASES[:1] if quick else CASES)
    published = [abs(each.error) for each in ran]
    errors = published + [abs(error) for error in own.values()]
    plain = mean(abs(each.plain / used_bytes(each.case) - 1) for each in ran)
    worst = max(ran, key=lambda each: abs(each.error))
    note = (
        f"{len(ran)} published runs, each by a fit of its framework that left it out: mean "
        f"{mean(published):.4f}, median {median(published):.4f}, without any fit {plain:.4f}; "
        f"{_by_framework(ran)}; worst {worst.case.id} ({worst.case.setting}) {worst.error:+.3f}; "
        f"and {len(own)} processes of this machine"
    )
    peaks = ", ".join(f"{name} {error:+.3f}" for name, error in own.items())
    return [
        Result("planner.memory_error", mean(errors), "ratio", PEERS, note),
        Result(
            "planner.memory_error.process",
            mean(abs(error) for error in own.values()),
            "ratio",
            {},
            f"resident memory that training adds on the CPU: {peaks}",
        ),
        feasible_but_oom(judged),
        refused(rows),
        paper(),
    ]


def processes(cases: Sequence[ProcessCase]) -> dict[str, float]:
    """Relative error by name."""
    return {case.name: memory_process.predict(case) / memory_process.measure(case) - 1 for case in cases}


def feasible_but_oom(judged: Sequence[Judged]) -> Result:
    """Runs that ran out of memory though they were predicted to fit."""
    out = [each for each in judged if not each.case.used_gib]
    fits = {each.case.id: each.predicted <= room(each.case) for each in judged}
    said = ", ".join(f"{each.case.id}: {each.predicted / GIB:.0f} GiB" for each in out)
    refused = [each.case.id for each in judged if each.case.used_gib and not fits[each.case.id]]
    note = f"of {len(out)} that ran out ({said}); of those that ran, called infeasible: {refused or 'none'}"
    count = sum(fits[each.case.id] for each in out)
    return Result("planner.memory_error.feasible_but_oom", count, "count", {}, note)


def refused(rows: Sequence[Row]) -> Result:
    """Of all runs that can be modelled and did run, those that would not fit: their settings are mostly not
    stated, and their memory is not either."""
    cases = [(row, case_of(row)) for row in rows if "OUT OF MEMORY" not in row.notes]
    known = [(row, case) for row, case in cases if not isinstance(case, str)]
    no = [
        case for row, case in known if peak_bytes(case, row) > min(chip.memory_bytes for chip in case.chips)
    ]
    by_name = Counter(case.framework.name for case in no)
    told = ", ".join(f"{name} {count}" for name, count in by_name.most_common())
    return Result(
        "planner.memory_error.refused", len(no) / len(known), "ratio", {}, f"of {len(known)}: {told}"
    )


def framework(case: MemoryCase) -> str:
    return case.convention.name


def cases_of(rows: Sequence[Row]) -> list[MemoryCase]:
    """Of the rows that say what memory was used, or that it ran out."""
    told = [row for row in rows if row.memory_used_gib or "OUT OF MEMORY" in row.notes]
    return [case for case in map(memory_case, told) if case is not None]


def used_bytes(case: MemoryCase) -> float:
    return case.used_gib * GIB


def room(case: MemoryCase) -> float:
    """Bytes of its chips; where the row does not say, what runs of this size are published on."""
    return (case.total_gib or USUAL_GIB) * GIB


def judge(cases: Sequence[MemoryCase]) -> list[Judged]:
    """Each by a fit to the other runs of its framework; runs of one layout are left out together."""
    peaks = {case.id: fullest(case) for case in cases}
    judged = []
    for case in cases:
        others = [
            each
            for each in cases
            if framework(each) == framework(case) and each.used_gib and _alike(each) != _alike(case)
        ]
        fit = fit_memory([Measured(peaks[each.id], used_bytes(each), each.layout.tp > 1) for each in others])
        judged.append(Judged(case, predict(case, fit), predict(case, MemoryFit())))
    return judged


def predict(case: MemoryCase, fit: MemoryFit) -> float:
    """Bytes on the fullest chip."""
    return max(stage.total for stage in case.stages(fit.apply(case.convention)))


def fullest(case: MemoryCase) -> StageMemory:
    return max(case.stages(), key=lambda stage: stage.total)


def _alike(case: MemoryCase) -> tuple[str, int, int, int, int]:
    layout = case.layout
    return case.setting, layout.tp, layout.pp, layout.dp, layout.micro_batch


def _by_framework(ran: Sequence[Judged]) -> str:
    names = sorted({framework(each.case) for each in ran})
    parts = []
    for name in names:
        own = [abs(each.error) for each in ran if framework(each.case) == name]
        parts.append(f"{name} {mean(own):.3f} of {len(own)}")
    return ", ".join(parts)


class Closed(NamedTuple):
    """A model of arXiv 2205.05198, table 3, and its bars of figure 1, in GiB, as Calculon reads them."""

    hidden: int
    heads: int
    layers: int
    pp: int
    virtual: int
    micro_batch: int
    states: float
    activations: float
    less: float
    """Activations with sequence parallelism and selective recompute."""


FIGURE_1 = [
    Closed(6144, 64, 48, 1, 1, 4, 45.5625, 59.25, 9.5625),
    Closed(12_288, 96, 96, 8, 3, 1, 45.5625, 66.84375, 12.3515625),
    Closed(20_480, 128, 105, 35, 3, 1, 31.640625, 114.0234375, 23.076171875),
    Closed(25_600, 160, 128, 64, 1, 1, 32.958984375, 131.25, 26.5625),
]


def paper() -> Result:
    """States and activations of the first stage, layers alone, as the figure has them."""
    errors = []
    for closed in FIGURE_1:
        full, less = _first_stage(closed, "none"), _first_stage(closed, "selective")
        states = (full.weights + full.gradients + full.optimizer) / GIB
        pairs = (
            (states, closed.states),
            (full.activations / GIB, closed.activations),
            (less.activations / GIB, closed.less),
        )
        errors += [abs(ours / theirs - 1) for ours, theirs in pairs]
    note = f"{len(errors)} bars of arXiv 2205.05198, figure 1, themselves arithmetic; worst {max(errors):.4f}"
    return Result("planner.memory_error.paper", mean(errors), "ratio", PAPER_PEERS, note)


def _first_stage(closed: Closed, recompute: Recompute) -> StageMemory:
    """On two stages at least, so that the head is elsewhere; the embedding has no rows."""
    spec = ModelSpec(
        vocab_size=1,
        hidden_size=closed.hidden,
        num_layers=closed.layers,
        num_heads=closed.heads,
        num_kv_heads=closed.heads,
        head_dim=closed.hidden // closed.heads,
        ffn_size=4 * closed.hidden,
    )
    known = KnownModel(name="", model=spec, params=0, ffn_matrices=2)
    convention = msgspec.structs.replace(
        MEGATRON, flash=False, dropout=True, sequence_parallel=recompute != "none", logit_bytes=0
    )
    layout = Layout(
        tp=8,
        pp=closed.pp,
        virtual=closed.virtual,
        micro_batch=closed.micro_batch,
        micro_batches=512,
        seq_len=2048,
        recompute=recompute,
        sharding=0,
    )
    return pipeline_memory(shapes_of(known), layout, even_bounds(closed.layers, closed.pp), convention)[0]
