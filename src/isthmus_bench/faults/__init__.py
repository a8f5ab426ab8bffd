"""`isthmus bench faults`: what a run survives, how soon a fault is seen, and who is blamed."""

from collections.abc import Callable

from isthmus_bench.document import Result
from isthmus_bench.faults import (
    controller,
    corruption,
    hang,
    kill,
    numbers,
    overhead,
    site_cut,
    slow,
    storm,
)

Family = Callable[[bool], list[Result]]

FAMILIES: tuple[Family, ...] = (
    kill.run, hang.run, numbers.run, slow.run, overhead.run, storm.run, controller.run, site_cut.run,
    corruption.run,
)  # fmt: skip

SOAKS: tuple[Family, ...] = (hang.soak, storm.soak)
"""What takes an hour."""


def run(quick: bool) -> list[Result]:
    """All `faults.*` rows."""
    return [result for family in FAMILIES for result in family(quick)]


def soak(quick: bool) -> list[Result]:
    """The long rows instead of the others."""
    return [result for family in SOAKS for result in family(quick)]
