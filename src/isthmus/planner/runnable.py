"""What of a plan `isthmus train` cannot run yet, by name."""

from collections.abc import Iterator

from isthmus.errors import InfeasibleError
from isthmus.planner.plan import PipelinePlan, Plan, SitePlan


def check_runnable(plan: Plan) -> None:
    """Raises InfeasibleError that names every part of the plan that `isthmus train` cannot run."""
    parts = [part for site in plan.sites for part in _parts(site)]
    if parts:
        raise InfeasibleError(
            f"train cannot run {', '.join(dict.fromkeys(parts))} yet",
            where="plan",
            hint="`isthmus plan --runnable` finds the best plan without; `isthmus plan export` writes it for "
            "Megatron-LM or torchtitan",
        )


def _parts(site: SitePlan) -> Iterator[str]:
    for pipeline in site.pipelines:
        yield from _parts_of(pipeline)
    shares = {pipeline.layout.replica_batch for pipeline in site.pipelines}
    if len(shares) > 1:
        yield "unequal shares of the batch"
    if len({stage.site for pipeline in site.pipelines for stage in pipeline.stages} - {site.name}):
        yield "a pipeline over sites"


def _parts_of(pipeline: PipelinePlan) -> Iterator[str]:
    layout = pipeline.layout
    degrees = {
        "tensor parallelism": layout.tp,
        "context parallelism": layout.cp,
        "pipelines": layout.pp,
        "expert parallelism": layout.ep,
    }
    yield from (name for name, degree in degrees.items() if degree > 1)
    if layout.recompute != "none":
        yield "recompute"
    if layout.sharding and layout.dp > 1:
        yield "sharded optimizers"
