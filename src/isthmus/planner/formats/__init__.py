"""Plans as configurations of other trainers, and back."""

from collections.abc import Callable

from isthmus.errors import InputError
from isthmus.planner.formats.export import pick_pipeline
from isthmus.planner.formats.foreign import Foreign, require_experts
from isthmus.planner.formats.megatron import write_megatron
from isthmus.planner.formats.megatron_read import is_megatron, read_megatron
from isthmus.planner.formats.torchtitan import write_torchtitan
from isthmus.planner.formats.torchtitan_read import is_torchtitan, read_torchtitan
from isthmus.planner.make import require_made_for
from isthmus.planner.plan import PipelinePlan, Plan
from isthmus.spec.run import RunSpec

WRITERS: dict[str, Callable[[PipelinePlan, RunSpec], str]] = {
    "megatron": write_megatron,
    "torchtitan": write_torchtitan,
}


def export_plan(plan: Plan, run: RunSpec, format: str, site: str | None = None) -> str:
    """One site's pipeline as `format` ('megatron' or 'torchtitan') writes it.

    Raises InputError by name for what that trainer cannot express and for a plan of another run,
    NotFoundError for no such site.
    """
    if format not in WRITERS:
        raise InputError(f"there is no format '{format}'", hint=f"one of {', '.join(WRITERS)}")
    require_made_for(plan, run)
    pipeline = pick_pipeline(plan, site)
    require_experts(run.model, pipeline.layout, "plan")
    return WRITERS[format](pipeline, run)


def read_config(text: str, num_chips: int = 0, format: str = "") -> Foreign:
    """A Megatron-LM script, argument list or YAML, or a torchtitan TOML. `num_chips` 0: as the text says.
    `format`: 'megatron' or 'torchtitan'; empty: as the text looks.

    Raises InputError where it is neither, or contradicts itself.
    """
    if format == "torchtitan" or (not format and is_torchtitan(text)):
        return read_torchtitan(text, num_chips)
    if format == "megatron" or is_megatron(text):
        return read_megatron(text, num_chips)
    raise InputError(
        "neither Megatron-LM arguments nor a torchtitan configuration",
        hint="it must have --num-layers, or [model] with a flavor",
    )
