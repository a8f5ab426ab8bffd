"""`isthmus bench planner`: what the planner predicts, finds and leaves on the table."""

import sys
from collections.abc import Callable

from isthmus.errors import NotFoundError
from isthmus_bench.document import Result
from isthmus_bench.planner import accuracy, memory, metis, optimality, real, replan, scale, skywork

Family = Callable[[bool], list[Result]]

FAMILIES: tuple[Family, ...] = (
    accuracy.run,
    memory.run,
    optimality.run,
    scale.run,
    replan.run,
    metis.run,
    skywork.run,
    real.run,
)


def run(quick: bool) -> list[Result]:
    """All `planner.*` rows; without the rows that some are judged by, stderr says which are left out."""
    return [result for family in FAMILIES for result in _results(family, quick)]


def _results(family: Family, quick: bool) -> list[Result]:
    try:
        return family(quick)
    except NotFoundError as error:
        print(f"{family.__module__.rpartition('.')[2]} left out: {error}", file=sys.stderr)
        return []
