"""Which pipeline of a plan is written, and what no other trainer can express."""

from itertools import accumulate, groupby

from isthmus.errors import InputError
from isthmus.planner.formats.foreign import Bounds
from isthmus.planner.layout import Layout
from isthmus.planner.plan import PipelinePlan, Plan, SitePlan
from isthmus.spec.run import RunSpec


def pick_pipeline(plan: Plan, site: str | None) -> PipelinePlan:
    """The one kind of pipeline at `site`, or at the only site.

    Raises InputError for several sites, unlike pipelines or unlike chips; NotFoundError for no such site.
    """
    chosen = plan.site(site) if site else _only_site(plan)
    if len(chosen.pipelines) > 1:
        raise InputError(
            f"its {len(chosen.pipelines)} pipelines are unlike; other trainers cut every replica alike",
            where=f"site {chosen.name}",
            hint="plan with chips of one kind, or with the same count of each",
        )
    if not chosen.pipelines:
        return _plain(chosen, plan)
    pipeline = chosen.pipelines[0]
    if len(degrees := {stage.tp for stage in pipeline.stages}) > 1:
        told = " and ".join(map(str, sorted(degrees)))
        raise InputError(
            f"its stages have tensor parallel degrees {told}; other trainers have one for all",
            where=f"site {chosen.name}",
            hint=f"plan again with --set parallel.tp={max(degrees)}",
        )
    if pipeline.layout.num_chips != chosen.num_ranks:
        raise InputError(
            f"the pipelines use {pipeline.layout.num_chips} of its {chosen.num_ranks} ranks",
            where=f"site {chosen.name}",
        )
    return pipeline


def _only_site(plan: Plan) -> SitePlan:
    if len(plan.sites) == 1:
        return plan.sites[0]
    names = ", ".join(site.name for site in plan.sites)
    raise InputError(
        f"the plan has {len(plan.sites)} sites; other trainers have no outer loop",
        hint=f"export one site at a time, of {names}",
    )


def _plain(site: SitePlan, plan: Plan) -> PipelinePlan:
    """Data parallel alone: the plan of a fleet whose chips have no model."""
    raise InputError(
        "its plan does not say how the model lies on the chips",
        where=f"site {site.name}",
        hint="plan with chips of known speed, by `isthmus plan`",
    )


def require_sequences(layout: Layout, parts: int, where: str) -> None:
    """Raises InputError where a sequence is not divisible into so many parts."""
    if layout.seq_len % parts:
        raise InputError(
            f"sequences of {layout.seq_len} are not divisible by {parts} (tp {layout.tp}, cp {layout.cp})",
            where=where,
            hint=f"set data.seq_len to a multiple of {parts}, or other degrees",
        )


def placed(pipeline: PipelinePlan) -> list[str]:
    """Where the ranks are, if not all on like chips at one site: these trainers number them stage by stage,
    all replicas of a stage together."""
    size = pipeline.layout.tp * pipeline.layout.cp * pipeline.layout.dp
    runs = [(place, len(list(run))) for place, run in groupby(pipeline.stages, lambda s: (s.chip, s.site))]
    ends = list(accumulate(size * stages for _, stages in runs))
    told = [
        f"ranks {end - size * stages} to {end - 1}: {chip} at {site}"
        for ((chip, site), stages), end in zip(runs, ends, strict=True)
    ]
    return told if len(told) > 1 else []


def batch_loss(layout: Layout, run: RunSpec) -> list[str]:
    """Replicas of the plan may take unequal shares of the batch; those of other trainers cannot."""
    batch = layout.dp * layout.replica_batch
    if batch == run.train.batch_size:
        return []
    each = f"{layout.dp} replicas of {layout.micro_batches} micro-batches of {layout.micro_batch}"
    return [f"train.batch_size: {run.train.batch_size} (written as {batch}, {each})"]


def stage_bounds(pipeline: PipelinePlan) -> Bounds:
    """Raises InputError where stages do not fit the layout or each other."""
    layout, stages = pipeline.layout, pipeline.stages
    if len(stages) != layout.pp:
        raise InputError(f"{len(stages)} stages, but pp is {layout.pp}", where="plan")
    bounds = [stage.chunks or [(stage.first_layer, stage.end_layer)] for stage in stages]
    if any(len(chunks) != layout.virtual for chunks in bounds):
        raise InputError(f"a stage does not have the layout's {layout.virtual} chunks", where="plan")
    order = [chunks[turn] for turn in range(layout.virtual) for chunks in bounds]
    ends = [0, *(end for _, end in order)]
    if [first for first, _ in order] != ends[:-1]:
        raise InputError(
            "its chunks do not follow each other round the stages",
            where="plan",
            hint="other trainers give chunk c to stage c mod pp",
        )
    return bounds


def recompute_needs(pipeline: PipelinePlan) -> list[int]:
    """Layers of each stage to be computed again in full; all where the layout says so and none is counted."""
    counts = [stage.recompute_layers for stage in pipeline.stages]
    if pipeline.layout.recompute == "full" and not any(counts):
        return [stage.held_layers for stage in pipeline.stages]
    return counts


def recompute_loss(pipeline: PipelinePlan, gets: list[int]) -> list[str]:
    """What of the plan's recompute is lost where the stages get `gets`."""
    needs = recompute_needs(pipeline)
    lost = [] if gets == needs else [f"recompute by stage {needs}; the stages recompute {gets}"]
    if any(needs) and pipeline.layout.recompute == "selective":
        lost.append("selective recompute of the layers that are not recomputed in full")
    return lost
