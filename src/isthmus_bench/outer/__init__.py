"""`isthmus bench outer`: what training across sites costs, and what it survives."""

from collections.abc import Callable

from isthmus_bench.document import Result
from isthmus_bench.outer import cut, equivalent, loss_gap, oracle, restart, slow

Family = Callable[[bool], list[Result]]

FAMILIES: tuple[Family, ...] = (
    oracle.run, equivalent.run, slow.run, restart.run, cut.run, loss_gap.run,
)  # fmt: skip


def run(quick: bool) -> list[Result]:
    """All `outer.*` rows; those of a peer that is not here are left out."""
    return [result for family in FAMILIES for result in family(quick)]
