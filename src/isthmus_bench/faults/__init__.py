"""`isthmus bench faults`: what a run survives, how soon a fault is seen, and who is blamed."""

import sys
from collections.abc import Callable

from isthmus.errors import IsthmusError
from isthmus_bench.document import Result
from isthmus_bench.faults import (
    controller,
    corruption,
    detect,
    diagnosis,
    hang,
    kill,
    overhead,
    peer_copy,
    site_cut,
    slow,
    storm,
    wrong_numbers,
)

Family = Callable[[bool], list[Result]]

FAMILIES: tuple[Family, ...] = (
    kill.run, hang.run, wrong_numbers.run, slow.run, overhead.run, storm.run, controller.run, site_cut.run,
    peer_copy.run, corruption.run, detect.run, diagnosis.run,
)  # fmt: skip

SOAKS: tuple[Family, ...] = (hang.soak, storm.soak)
"""What takes an hour."""


def run(quick: bool) -> list[Result]:
    """All `faults.*` rows; where some cannot be taken, stderr says which and why."""
    return [result for family in FAMILIES for result in _results(family, quick)]


def soak(quick: bool) -> list[Result]:
    """The long rows instead of the others."""
    return [result for family in SOAKS for result in _results(family, quick)]


def _results(family: Family, quick: bool) -> list[Result]:
    try:
        return family(quick)
    except IsthmusError as error:
        print(f"{family.__module__.rpartition('.')[2]} left out: {error}", file=sys.stderr)
        return []
