"""What a template's seconds go to, how they are trusted, and what the event simulation says of them."""

import math

import numpy as np
from msgspec.structs import replace

from isthmus.planner.belief.features import Setup, features_of, place_of
from isthmus.planner.belief.file import shipped_posterior
from isthmus.planner.belief.query import Groups, Query
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.factors import Factors
from isthmus.planner.schedule import Pipeline, makespan
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.template import Job, Segment, Template, stage_costs

MEASURED = Factors(
    matmul=1.0, operands=1.0, attention=1.0, elementwise=1.0, cast=1.0, route=1.0, launch=1.0, bubble=1.0
)
"""Of a chip whose rates were measured: what a probe finds is already reached."""


def factors_for(pool: Pool, precision: str) -> Factors:
    """The shipped belief's, for this chip; ones where its rates were measured."""
    if pool.chip.origins.get("memory_gb_s") == "measured":
        return MEASURED
    return shipped_posterior().factors(groups_of(pool.chip, precision))


def groups_of(chip: ChipModel, precision: str) -> Groups:
    """A plan is expected to run as Megatron-LM does: most published runs of all chips are of its family."""
    return Groups(
        framework="megatron-lm",
        family="megatron",
        generation=chip.generation,
        chip=chip.name,
        recipe=precision,
    )


def parts_of(job: Job, template: Template) -> dict[str, float]:
    """Seconds of a step by what the slowest stage, and then the replicas, spend them on; they add up."""
    slowest = int(np.argmax(template.split.time_S))
    segment = template.stage_segments()[slowest]
    layout = replace(template.layout, tp=segment.tp)
    table = job.table(segment.pool, layout)
    blocks = _blocks_of(job, template, slowest)
    count = layout.micro_batches
    parts = {name: count * float(part[blocks].sum()) for name, part in table.parts.items()}
    again = int(template.split.recompute_S[slowest]) * template.split.virtual
    layers = [block for block in blocks if 0 < block <= job.run.model.num_layers]
    parts["recompute"] = count * float(table.recompute_s[layers[:again]].sum())
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


def spread(job: Job, template: Template) -> tuple[float, float]:
    """(low, high) relative to the expected step: nine of ten such runs lie between them."""
    setup = _setup(job, template)
    query = Query(
        features=features_of(setup),
        groups=groups_of(setup.chip, setup.layout.precision),
        place=place_of(setup.model, setup.layout),
    )
    estimate = shipped_posterior().predict([query])[0]
    return estimate.low_s / estimate.step_s, estimate.high_s / estimate.step_s


def _setup(job: Job, template: Template) -> Setup:
    pools = [segment.pool for segment in template.stage_segments()]
    model = job.run.model
    layers = np.diff(template.split.ends_S, prepend=0) * template.split.virtual
    again = float(template.split.recompute_S.sum()) * template.split.virtual / model.num_layers
    return Setup(
        model=model,
        chips=[pool.chip for pool in pools],
        network=pools[0].network,
        layout=template.layout,
        stages=layers.tolist(),
        nodes=max(1.0, template.num_chips / pools[0].per_node),
        recomputed=again,
    )


def lost_to(template: Template, chosen: Template) -> str:
    """In what a slower template loses most against the chosen one."""
    names = {
        "compute_s": "compute",
        "bubble_s": "idle pipeline",
        "exchange_s": "gradient exchange",
        "optimizer_s": "optimizer",
        "waiting_s": "waiting for the slowest",
    }
    worse = {
        name: getattr(template.time, field) - getattr(chosen.time, field) for field, name in names.items()
    }
    name = max(worse, key=lambda each: worse[each])
    more = (template.step_s / chosen.step_s - 1) if math.isfinite(template.step_s) else math.inf
    return f"{more:+.1%}: {name} {worse[name]:+.3g} s"


def segments_text(segments: tuple[Segment, ...]) -> str:
    return " + ".join(f"{each.stages} stages on {each.pool.name}" for each in segments)
