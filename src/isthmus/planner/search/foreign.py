"""A configuration of another trainer, judged as the search judges its plans, and the best plan beside it."""

import math

import msgspec
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.convention import FSDP, MEGATRON
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.stage_memory import pipeline_memory
from isthmus.planner.cost.step import StageCost, StepTime, stage_cost, step_time
from isthmus.planner.formats.foreign import Foreign
from isthmus.planner.layout import Layout
from isthmus.planner.models.known import KnownModel
from isthmus.planner.plan import StagePlan
from isthmus.planner.published.flops import token_flops
from isthmus.planner.published.frameworks import Framework, find_framework
from isthmus.planner.search.alike import search_pool
from isthmus.planner.search.answer import stages_of
from isthmus.planner.search.considered import plan_name
from isthmus.planner.search.judge import MEMORY_PARTS, factors_for, interval, spread
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.template import Job, Template, exchange_for
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import RunSpec

WIDTH_STEP = 128
"""Widths that stand for others are rounded to this, so that as many degrees divide them."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One layout of a model on some chips: seconds of a step, and what they are worth."""

    name: str
    """As 'tp 4, pp 12, dp 32'."""
    layout: Layout
    step_s: float
    low_s: float
    """The step takes between low_s and high_s nine times of ten."""
    high_s: float
    tokens_per_s_per_chip: float
    """Of all chips, those left idle with them."""
    mfu: float
    """Model FLOPs, attention over the whole sequence, over the peak of all chips."""
    parts: dict[str, float]
    """Seconds of the step by what they are spent on."""
    stages: list[StagePlan]
    fits: bool
    """Every stage's peak is within its chips' memory, less the headroom."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, and the best plan that the search finds for the same model, batch and chips."""

    framework: str
    chip: str
    num_chips: int
    num_params: int
    global_batch: int
    seq_len: int
    config: Judged
    best: Judged | None
    """None where nothing fits the memory."""
    gain: float | None
    """Tokens/s that the best plan has more than the configuration, as a share."""
    warnings: list[str]


def compare(config: Foreign, chip: ChipModel, headroom: float = 0.08) -> Comparison:
    """`headroom`: part of each chip's memory that is left free. Raises InputError where the chip cannot run
    the configuration's precision."""
    layout, framework = config.layout, find_framework(config.framework)
    if not chip.peak_tflops(layout.precision):
        raise InputError(f"the {layout.precision} rate of {chip.name} is not known", where="--chip")
    pool = _pool(chip, layout.num_chips)
    job = _job(config, pool, framework, headroom)
    found = search_pool(job, pool, config.global_batch)
    judged = _config(job, pool, config, framework)
    best = _best(job, pool, found.best, framework) if found.best else None
    return Comparison(
        framework=config.framework,
        chip=chip.name,
        num_chips=layout.num_chips,
        num_params=config.known.num_params,
        global_batch=config.global_batch,
        seq_len=layout.seq_len,
        config=judged,
        best=best,
        gain=judged.step_s / best.step_s - 1 if best else None,
        warnings=[*config.warnings, *_doubts(config.known)],
    )


def _pool(chip: ChipModel, num_chips: int) -> Pool:
    """Nodes as large as the chip's usual ones, or as divides the chips."""
    per_node = math.gcd(num_chips, chip.per_node)
    return Pool(
        site="here",
        name=chip.name,
        chip=replace(chip, per_node=per_node),
        nodes=num_chips // per_node,
        per_node=per_node,
    )


def _job(config: Foreign, pool: Pool, framework: Framework, headroom: float) -> Job:
    run = RunSpec(model=_timed_model(config.known))
    run = replace(
        run,
        data=replace(run.data, seq_len=config.layout.seq_len),
        train=msgspec.structs.replace(
            run.train,
            batch_size=config.global_batch,
            precision=config.layout.precision,  # type: ignore[arg-type]
        ),
        goal=replace(run.goal, headroom=headroom),
    )
    factors = factors_for(pool, config.layout.precision, framework)
    return Job(run, {pool.chip.name: factors}, FSDP if framework.family == "fsdp" else MEGATRON)


def _timed_model(known: KnownModel) -> ModelSpec:
    """Two matrices of a feed-forward part cost as much as three that are two thirds as wide."""
    model = known.model
    if known.ffn_matrices == 3:
        return model
    widths = {name: getattr(model, name) for name in ("ffn_size", "expert_ffn_size") if getattr(model, name)}
    scaled = {name: max(1, round(width * 2 / 3 / WIDTH_STEP)) * WIDTH_STEP for name, width in widths.items()}
    return replace(model, **scaled)


def _doubts(known: KnownModel) -> list[str]:
    lines = {
        "multi-head latent attention is timed as plain attention of as many heads": known.latent is not None,
        "sliding windows are timed as attention over the whole sequence": known.window > 0,
        "layers of multi-token prediction are not timed": known.predict_layers > 0,
    }
    return [line for line, holds in lines.items() if holds]


def _config(job: Job, pool: Pool, config: Foreign, framework: Framework) -> Judged:
    layout, counts = config.layout, config.stage_layers
    costs = [_stage_cost(job, pool, config, stage) for stage in range(len(counts))]
    nodes = layout.num_chips / pool.per_node
    time = step_time(costs, layout, nodes, job.factors[pool.chip.name])
    stages = _stages(job, pool, config, costs)
    again = sum(config.recompute_layers) / max(1, sum(counts))
    low, high = interval(job, layout, [pool] * len(counts), counts, again, framework)
    return _judged(job, pool, _config_name(config), layout, time, (low, high), stages)


def _config_name(config: Foreign) -> str:
    layout, again = config.layout, sum(config.recompute_layers)
    parts = [
        f"tp {layout.tp}",
        f"pp {layout.pp}" + (f" x {layout.virtual}" if layout.virtual > 1 else ""),
        f"cp {layout.cp}" if layout.cp > 1 else "",
        f"ep {layout.ep}" if layout.ep > 1 else "",
        f"dp {layout.dp}",
        f"micro-batch {layout.micro_batch}",
        "selective" if layout.recompute == "selective" else "",
        f"recompute {again}" if again else "",
        "sharded" if layout.sharding == 3 else "",
    ]
    return ", ".join(part for part in parts if part)


def _stage_cost(job: Job, pool: Pool, config: Foreign, stage: int) -> StageCost:
    """All its chunks together, in the search's own terms (`template.stage_costs`)."""
    layout, last = config.layout, len(config.bounds) - 1
    table, exchange = job.table(pool, layout), exchange_for(job, pool, layout)
    layers = [1 + layer for first, end in config.bounds[stage] for layer in range(first, end)]
    blocks = [0] * (stage == 0) + layers + [len(table.forward_s) - 1] * (stage == last)
    return stage_cost(table, blocks, config.recompute_layers[stage], layout, exchange)


def _stages(job: Job, pool: Pool, config: Foreign, costs: list[StageCost]) -> list[StagePlan]:
    """Memory is that of the model as it is, with what ModelSpec cannot say of it."""
    layout = config.layout
    ends = [sum(config.stage_layers[: index + 1]) for index in range(len(costs))]
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    held = pipeline_memory(shapes_of(config.known), layout, bounds, job.convention, config.recompute_layers)
    limit = int(pool.chip.memory_gib * 2**30 * (1 - job.run.goal.headroom))
    return [
        StagePlan(
            site=pool.site,
            chip=pool.name,
            tp=layout.tp,
            first_layer=config.bounds[stage][0][0],
            end_layer=config.bounds[stage][-1][1],
            chunks=config.bounds[stage] if layout.virtual > 1 else [],
            embedding=stage == 0,
            head=stage == len(costs) - 1,
            recompute_layers=config.recompute_layers[stage],
            memory_bytes=int(memory.total),
            memory_limit=limit,
            memory={name: int(getattr(memory, name)) for name in MEMORY_PARTS}
            | {"other": int(memory.transient + memory.fixed)},
            forward_s=cost.forward_s,
            backward_s=cost.backward_s,
        )
        for stage, (cost, memory) in enumerate(zip(costs, held, strict=True))
    ]


def _best(job: Job, pool: Pool, template: Template, framework: Framework) -> Judged:
    relative = spread(job, template, framework)
    stages = stages_of(job, template)
    return _judged(job, pool, plan_name(template), template.layout, template.time, relative, stages)


def _judged(  # noqa: PLR0913 - a plan's parts, from either side
    job: Job,
    pool: Pool,
    name: str,
    layout: Layout,
    time: StepTime,
    relative: tuple[float, float],
    stages: list[StagePlan],
) -> Judged:
    step_s = time.total_s
    rate = job.batch * layout.seq_len / step_s / pool.num_chips
    peak = pool.chip.peak_tflops(layout.precision) * 1e12
    parts = {field.removesuffix("_s"): seconds for field, seconds in time._asdict().items() if seconds > 0}
    return Judged(
        name=name,
        layout=layout,
        step_s=step_s,
        low_s=relative[0] * step_s,
        high_s=relative[1] * step_s,
        tokens_per_s_per_chip=rate,
        mfu=rate * token_flops(job.run.model, layout.seq_len) / peak,
        parts=parts,
        stages=stages,
        fits=all(stage.memory_bytes <= stage.memory_limit for stage in stages),
    )
