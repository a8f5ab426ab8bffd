"""What data parallelism adds to a step: gradients go out bucket by bucket while backward still runs."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from isthmus.planner.probed.profile import CollectiveRate
from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec

BUCKET_BYTES = 4 * 2**20
"""As `parallel.data_parallel` cuts them."""
GRADIENT_BYTES = 4


class Overlap(NamedTuple):
    """Seconds of a step's all-reduces, each taking what it takes by itself."""

    beside_s: float
    """While backward runs."""
    after_s: float
    """When backward has ended: the step waits for them."""

    def added_s(self, contention: float) -> float:
        """beside_s x contention + after_s. Contention: seconds by which backward grows for each second of an
        all-reduce beside it; near 0 on chips that send by themselves, near 1 where CPU cores do both.
        """
        return self.beside_s * contention + self.after_s


def overlap(model: ModelSpec, backward_s: Mapping[str, float], rate: CollectiveRate) -> Overlap:
    """Of one step; each bucket starts when its last gradient is there and the bucket before it has gone.

    Args:
        backward_s: seconds of 'head', 'dense', 'moe', 'attention' (of a layer) and 'embedding'.
    """
    ready = _ready_times(model, backward_s)
    end_s = ready["embed"]
    free_s = beside_s = 0.0
    for num_bytes, place in _buckets(model):
        start_s = max(free_s, ready[place])
        free_s = start_s + rate.seconds(num_bytes)
        beside_s += max(0.0, min(free_s, end_s) - start_s)
    return Overlap(beside_s, max(0.0, free_s - end_s))


def contention(measured_added_s: float, alone: Overlap) -> float:
    """That explains the seconds that an exchange added to a step; at least 0."""
    return max(0.0, measured_added_s - alone.after_s) / alone.beside_s if alone.beside_s else 0.0


def _ready_times(model: ModelSpec, backward_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of backward until the gradients of a place are there."""
    now_s = backward_s["head"]
    ready = {"head": now_s, "norm": now_s}
    for layer in reversed(range(model.num_layers)):
        now_s += backward_s["moe" if model.is_moe_layer(layer) else "dense"]
        ready[f"{layer}.feed"] = now_s
        now_s += backward_s["attention"]
        ready[f"{layer}.attn"] = now_s
    ready["embed"] = now_s + backward_s["embedding"]
    return ready


def _buckets(model: ModelSpec) -> Iterator[tuple[int, str]]:
    """(bytes, place of the last gradient) of each bucket, in the order in which they go."""
    size, place = 0, ""
    for name, shape in reversed(list(param_shapes(model))):
        if name.endswith("router.bias"):
            continue  # it has no gradient
        if size >= BUCKET_BYTES:
            yield size, place
            size = 0
        size, place = size + GRADIENT_BYTES * math.prod(shape), _place(name)
    yield size, place


def _place(name: str) -> str:
    first, *rest = name.split(".")
    if first != "layers":
        return first
    layer, part = rest[:2]
    return f"{layer}.attn" if part.startswith("attn") else f"{layer}.feed"
