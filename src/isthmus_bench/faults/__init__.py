"""`isthmus bench faults`: what a run survives, how soon a fault is seen, and who is blamed."""

import sys
from collections.abc import Callable

from isthmus.errors import NotFoundError
from isthmus_bench.document import Result
from isthmus_bench.faults import corruption, detect, diagnosis, peer_copy

Family = Callable[[bool], list[Result]]

FAMILIES: tuple[Family, ...] = (corruption.run, detect.run, diagnosis.run, peer_copy.run)


def run(quick: bool) -> list[Result]:
    """All `faults.*` rows; where what some are judged by is missing, stderr says which are left out."""
    return [result for family in FAMILIES for result in _results(family, quick)]


def _results(family: Family, quick: bool) -> list[Result]:
    try:
        return family(quick)
    except NotFoundError as error:
        print(f"{family.__module__.rpartition('.')[2]} left out: {error}", file=sys.stderr)
        return []
