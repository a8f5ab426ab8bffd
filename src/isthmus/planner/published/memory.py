"""Peak memory of a row's run: the fullest of its stages."""

from itertools import accumulate, pairwise

from msgspec.structs import replace

from isthmus.planner.cost.convention import CONVENTIONS, Convention
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.cost.stage_memory import pipeline_memory
from isthmus.planner.published.case import Case
from isthmus.planner.published.rows import Row
from isthmus.planner.published.usual import LEARNED, SAILOR, memory_case

_BY_FAMILY = {"megatron": "megatron", "fsdp": "fsdp", "other": "deepspeed"}
FUSED = ("megatron-bridge", "nemo", "llm-foundry")
"""Systems whose recipes fuse the loss."""
FUSED_LOSS = 4.0
"""Bytes of a logit: it and its gradient, in 16 bits."""


def peak_bytes(case: Case, row: Row) -> float:
    """With the settings of the row's source where they are known (`usual`), otherwise by what frameworks of
    its family keep."""
    known = memory_case(row)
    if known is not None:
        stages = known.stages(LEARNED[known.convention.name].apply(known.convention))
    else:
        layout, again = case.layout, ()
        if case.recomputed < 1:
            layout = replace(layout, recompute="none")
            again = [round(case.recomputed * count) for count in case.stages]
        bounds = list(pairwise([0, *accumulate(case.stages)]))
        stages = pipeline_memory(shapes_of(case.model), layout, bounds, convention_of(case), again)
    return max(stage.total for stage in stages)


def convention_of(case: Case) -> Convention:
    """Of the row's framework."""
    name = case.framework.name
    if name == "sailor":
        return SAILOR
    own = CONVENTIONS[_BY_FAMILY[case.framework.family]]
    return replace(own, logit_bytes=FUSED_LOSS) if name in FUSED else own
