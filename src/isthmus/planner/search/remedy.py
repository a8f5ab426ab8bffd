"""What would make an infeasible request feasible: the smallest change of each kind."""

import math
from collections.abc import Iterator

from isthmus.planner.search.fleet import Survey
from isthmus.planner.search.template import Miss
from isthmus.units import Bytes

MOST_TIMES_NODES = 4096


def remedies(found: Survey) -> list[str]:
    """Smallest first of each kind: memory, recompute, layers, chips. Every one was searched, not guessed."""
    return list(_remedies(found)) or ["use chips with more memory, or a smaller model"]


def _remedies(found: Survey) -> Iterator[str]:
    misses = [miss for each in found.misses.values() for miss in each.values()]
    near = min(misses, key=_extra, default=None)
    if near is not None and math.isfinite(_extra(near)):
        yield f"{Bytes(math.ceil(_extra(near)))} more memory on each {near.where}"
    helped = [miss for miss in misses if miss.shortfall.extra_bytes_recomputed <= 0 < _extra(miss)]
    if helped:
        yield "recompute whole layers (parallel.recompute: auto)"
    layers = max((miss.shortfall.layers_recomputed for miss in misses), default=0)
    if layers:
        yield f"at most {layers} layers instead of {found.job.run.model.num_layers}"
    times = _times_nodes(found)
    if times:
        yield f"{times} times the nodes of each kind"


def _extra(miss: Miss) -> float:
    return miss.shortfall.extra_bytes


def _times_nodes(found: Survey) -> int:
    """The least power of two by which each site's nodes would have to grow; 0: none helps."""
    times = 2
    while times <= MOST_TIMES_NODES:
        pools = {site: [pool.take(pool.nodes * times) for pool in each] for site, each in found.pools.items()}
        larger = Survey(found.job, pools, found.lines)
        if any(larger.pack((site,)) is not None for site in pools):
            return times
        times *= 2
    return 0
