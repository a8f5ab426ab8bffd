"""`isthmus bench planner`: what the planner predicts, against what is measured."""

from isthmus_bench.document import Result
from isthmus_bench.planner import real


def run(quick: bool) -> list[Result]:
    return real.run(quick)
