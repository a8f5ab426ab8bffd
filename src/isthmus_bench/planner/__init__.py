"""`isthmus bench planner`: what the planner predicts, finds and leaves on the table."""

from collections.abc import Callable

from isthmus_bench.document import Result
from isthmus_bench.planner import accuracy, memory, optimality, replan

Family = Callable[[bool], list[Result]]

FAMILIES: tuple[Family, ...] = (accuracy.run, memory.run, optimality.run, replan.run)


def run(quick: bool) -> list[Result]:
    """All `planner.*` rows."""
    return [result for family in FAMILIES for result in family(quick)]
