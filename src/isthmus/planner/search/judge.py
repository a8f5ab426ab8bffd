"""What a template's seconds go to, how they are trusted, and what the event simulation says of them."""

import itertools
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from isthmus.planner.belief.features import Setup, features_of, place_of
from isthmus.planner.belief.file import shipped_posterior
from isthmus.planner.belief.query import Query
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.stage_memory import pipeline_memory
from isthmus.planner.layout import Layout
from isthmus.planner.published.frameworks import Framework, groups_of
from isthmus.planner.schedule import Pipeline, makespan
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.template import Job, Segment, Template, stage_costs
from isthmus.units import Seconds

SYSTEM = Framework(name="megatron-lm", family="megatron")
"""Whose runs a plan is expected to resemble: the family that most published runs of all chips are of."""
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations")
MEASURED = Factors(
    matmul=1.0, operands=1.0, attention=1.0, elementwise=1.0, cast=1.0, route=1.0, launch=1.0, bubble=1.0
)
"""Of a chip whose rates were measured: what a probe finds is already reached."""


def factors_for(pool: Pool, precision: str, system: Framework = SYSTEM) -> Factors:
    """The shipped belief's, for this chip and training system; ones where its rates were measured."""
    if pool.chip.origins.get("memory_gb_s") == "measured":
        return MEASURED
    return shipped_posterior().factors(groups_of(system, pool.chip, precision))


def parts_of(job: Job, template: Template) -> dict[str, float]:
    """Seconds of a step by what the slowest stage, and then the replicas, spend them on; they add up."""
    slowest = int(np.argmax(template.split.time_S))
    segment = template.stage_segments()[slowest]
    layout = replace(template.layout, tp=segment.tp)
    table = job.table(segment.pool, layout)
    blocks = _blocks_of(job, template, slowest)
    count = layout.micro_batches
    parts = {name: count * float(part[blocks].sum()) for name, part in table.parts.items()}
    parts["recompute"] = count * again_s(job, template, slowest)
    time = template.time
    parts["send and other"] = max(0.0, time.compute_s - sum(parts.values()))
    parts |= {
        "bubble": time.bubble_s,
        "exchange": time.exchange_s,
        "optimizer": time.optimizer_s,
        "overhead": time.overhead_s,
        "waiting": time.waiting_s,
        "long lines": template.lines_s,
    }
    return {name: seconds for name, seconds in parts.items() if seconds > 0}


def again_s(job: Job, template: Template, stage: int) -> float:
    """Seconds of a micro-batch in which a stage computes whole layers again."""
    segment = template.stage_segments()[stage]
    table = job.table(segment.pool, replace(template.layout, tp=segment.tp))
    again = int(template.split.recompute_S[stage]) * template.split.virtual
    layers = [each for each in _blocks_of(job, template, stage) if 0 < each <= job.run.model.num_layers]
    return float(table.recompute_s[layers[:again]].sum())


def memory_of(job: Job, template: Template) -> list[dict[str, int]]:
    """Bytes at the peak by what they hold, of every stage; they add up to what the split counted."""
    split, shapes = template.split, shapes_of(job.run.model)
    layers = (np.diff(split.ends_S, prepend=0) * split.virtual).tolist()
    ends = [0, *np.cumsum(layers).tolist()]
    again = (split.recompute_S * split.virtual).tolist()
    held: list[dict[str, int]] = []
    for stage, segment in enumerate(template.stage_segments()):
        layout = replace(template.layout, tp=segment.tp)
        of_all = pipeline_memory(shapes, layout, list(itertools.pairwise(ends)), job.convention, again)
        parts = {name: int(getattr(of_all[stage], name)) for name in MEMORY_PARTS}
        rest = int(split.memory_S[stage]) - sum(parts.values())
        held.append(parts | {"other": rest})
    return held


def _blocks_of(job: Job, template: Template, stage: int) -> list[int]:
    blocks = [1 + layer for first, end in template.split.chunks()[stage] for layer in range(first, end)]
    if stage == 0:
        blocks.insert(0, 0)
    if stage == len(template.split.ends_S) - 1:
        blocks.append(job.run.model.num_layers + 1)
    return blocks


def simulated_s(job: Job, template: Template) -> float:
    """Seconds of the step with its pipeline played event by event instead of by the closed form. Sends then
    run beside compute, and unlike stages wait for each other where they really meet."""
    layout, time = template.layout, template.time
    if layout.pp == 1 or (layout.micro_batches % layout.pp and layout.virtual > 1):
        return template.step_s
    costs = stage_costs(job, template.segments, layout, template.split)
    tables = [job.table(each.pool, replace(layout, tp=each.tp)) for each in template.stage_segments()]
    send = np.array([table.send_s for table in tables])
    forward = np.array([cost.forward_s for cost in costs])
    backward = np.array([cost.backward_s for cost in costs]) - 2 * layout.virtual * send
    virtual = layout.virtual
    played = makespan(
        Pipeline(
            forward_SV=np.repeat(forward[:, None] / virtual, virtual, axis=1),
            backward_SV=np.repeat(backward[:, None] / virtual, virtual, axis=1),
            micro_batches=layout.micro_batches,
            schedule="interleaved" if virtual > 1 else "1f1b",
            send_S=send,
        )
    )
    return template.step_s - time.compute_s - time.bubble_s + played


def spread(job: Job, template: Template, system: Framework = SYSTEM) -> tuple[float, float]:
    """(low, high) relative to the expected step: nine of ten such runs lie between them."""
    pools = [segment.pool for segment in template.stage_segments()]
    layers = (np.diff(template.split.ends_S, prepend=0) * template.split.virtual).tolist()
    again = float(template.split.recompute_S.sum()) * template.split.virtual / job.run.model.num_layers
    return interval(job, template.layout, pools, layers, again, system)


def interval(
    job: Job,
    layout: Layout,
    pools: Sequence[Pool],
    layers: Sequence[int],
    recomputed: float,
    system: Framework = SYSTEM,
) -> tuple[float, float]:
    """As `spread`. `pools`, `layers`: of each stage; `recomputed`: part of the layers that are."""
    if recomputed:
        layout = replace(layout, recompute="full")
    setup = Setup(
        model=job.run.model,
        chips=[pool.chip for pool in pools],
        network=pools[0].network,
        layout=layout,
        stages=list(layers),
        nodes=max(1.0, layout.num_chips / pools[0].per_node),
        recomputed=recomputed or 1.0,
        fused_attention=system.fused_attention,
    )
    query = Query(
        features=features_of(setup),
        groups=groups_of(system, setup.chip, layout.precision),
        place=place_of(setup.model, layout),
    )
    estimate = shipped_posterior().predict([query])[0]
    return estimate.low_s / estimate.step_s, estimate.high_s / estimate.step_s


def lost_to(template: Template, chosen: Template, scale: float = 1.0) -> str:
    """In what a slower template loses most against the chosen one. `scale`: by which its seconds are
    multiplied, so that both are for equally many sequences."""
    names = {
        "compute_s": "compute",
        "bubble_s": "idle pipeline",
        "exchange_s": "gradient exchange",
        "optimizer_s": "optimizer",
        "waiting_s": "waiting for the slowest",
    }
    worse = {
        name: scale * getattr(template.time, field) - getattr(chosen.time, field)
        for field, name in names.items()
    }
    name = max(worse, key=lambda each: worse[each])
    return f"{name} +{Seconds(max(0.0, worse[name]))}"


def segments_text(segments: tuple[Segment, ...]) -> str:
    return " + ".join(f"{each.stages} stages on {each.pool.name}" for each in segments)
