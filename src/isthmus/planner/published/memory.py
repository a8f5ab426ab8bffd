"""Peak memory of a case: the fullest of its stages."""

from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.network import Network
from isthmus.planner.cost.tabulate import tabulate
from isthmus.planner.published.case import Case


def peak_bytes(case: Case) -> float:
    """State, activations of the micro-batches in flight (1F1B: as many as stages from here to the last, more
    by the chunks when interleaved, arXiv 2104.04473, sec. 2.2), and what is fixed."""
    return max(_stage_bytes(case, index) for index in range(case.layout.pp))


def _stage_bytes(case: Case, index: int) -> float:
    layout = case.layout
    table = tabulate(case.model, case.chips[index], Network.of(case.chips[index]), layout, Factors())
    first = 1 + sum(case.stages[:index])
    end = first + case.stages[index]
    blocks = slice(0 if index == 0 else first, end + 1 if index == layout.pp - 1 else end)
    again = round(case.recomputed * case.stages[index]) if layout.recompute == "full" else 0
    kept = float(table.activation_bytes[first + again : end].sum())
    kept += float(table.checkpoint_bytes[first : first + again].sum())
    flight = min(layout.micro_batches, layout.pp - index)
    if layout.virtual > 1:
        extra = (layout.pp - 1) / (layout.pp * layout.virtual)
        flight = min(layout.micro_batches, (layout.pp - index) + extra * layout.pp)
    once = float(table.activation_bytes[end]) if index == layout.pp - 1 else 0.0
    return float(table.state_bytes[blocks].sum()) + flight * kept + once + table.fixed_bytes
