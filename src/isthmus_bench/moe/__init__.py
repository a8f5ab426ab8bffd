"""`isthmus bench moe`: one Mixture-of-Experts layer, and the training step of a small model of them."""

from isthmus_bench.document import Result
from isthmus_bench.moe import layer, train
from isthmus_bench.moe.race import Effort


def run(quick: bool) -> list[Result]:
    effort = Effort(warm_up=1, turns=2, tokens=256) if quick else Effort(warm_up=4, turns=8, tokens=4096)
    return [*layer.run(effort), *train.run(effort)]
