"""What a push, and taking up the version after it, cost the site that makes them."""

import time
from statistics import median

import numpy as np

from isthmus.models.transformer import Transformer, expert_groups
from isthmus.outer.bridge import Vectors
from isthmus.outer.layout import build_layout
from isthmus.outer.parameters import Exchange
from isthmus.outer.replica import Replica
from isthmus.spec.run import OuterSpec
from isthmus.wire import codecs

REPEATS = 5


def push_times(model: Transformer, outer: OuterSpec) -> tuple[float, float]:
    """(seconds of rank 0, seconds of the client): with the code that they run, without the link."""
    codecs.warm_up()
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    layout = build_layout(shapes, expert_groups(model), outer.fragments)
    vectors = Vectors.make(layout.size)
    try:
        exchange = Exchange(model, layout, vectors)
        replica = Replica(layout, vectors, outer.codec, outer.down_codec, outer.block_size)
        exchange.save()
        vectors.reference[:] = vectors.snapshot
        vectors.base[:] = vectors.snapshot
        versions = [
            codecs.encode(outer.down_codec, np.zeros_like(view), outer.block_size)
            for view in layout.views(vectors.snapshot)
        ]
        taken = [_once(exchange, replica, versions, seq) for seq in range(REPEATS)]
    finally:
        vectors.remove()
    return median(own for own, _ in taken[1:]), median(client for _, client in taken[1:])


def _once(exchange: Exchange, replica: Replica, versions: list[np.ndarray], seq: int) -> tuple[float, float]:
    start_s = time.perf_counter()
    exchange.save()
    saved_s = time.perf_counter()
    replica.encode("probe", 0, seq)
    replica.install(versions, full=False)
    replica.offer(None)
    replica.taken()
    told_s = time.perf_counter()
    exchange.take_up()
    end_s = time.perf_counter()
    return (saved_s - start_s) + (end_s - told_s), (told_s - saved_s)
