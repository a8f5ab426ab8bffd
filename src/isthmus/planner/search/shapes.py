"""Every shape that a pool's chips give: a family of layouts with stages, chunks and most replicas."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.planner.cost.step import exchange_of, exposed_s, scaled
from isthmus.planner.layout import Layout
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.space import Family
from isthmus.planner.search.template import Job

MAX_VIRTUAL = 16

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Shapes(NamedTuple):
    """Arrays, one entry each."""

    family: Ints
    """Index into the families."""
    stages: Ints
    virtual: Ints
    most: Ints
    """Replicas that the chips give, in whole groups of experts."""
    unit: Ints
    """Replicas come in multiples of this: their groups of experts come out whole."""
    width: Ints
    """Chips of a stage of a replica."""
    micro_batch: Ints
    slowest_s: Floats
    """Least seconds of a micro-batch on the slowest of S stages: of W seconds through all blocks, w through
    the longest and l through the shortest of L layers, max(W / S, w, v ceil(L / (v S)) l)."""
    idle_s: Floats
    """Least seconds in which the pipeline fills and empties: (W - slowest) / v, scaled."""

    def where(self, mask: NDArray[np.bool_]) -> "Shapes":
        return Shapes._make(column[mask] for column in self)


def shapes_on(job: Job, pool: Pool, families: Sequence[Family]) -> Shapes:
    """Of families whose chips of a stage the pool has."""
    table = np.array([(f.tp * f.cp, f.micro_batch, f.ep * f.etp, f.sharding) for f in families], np.int64)
    width_F, micro_batch_F, experts_F, sharding_F = table.reshape(-1, 4).T
    layers, wanted = job.run.model.num_layers, job.run.parallel
    stages = np.arange(1, min(layers, pool.num_chips) + 1)
    virtual = np.array([v for v in range(1, MAX_VIRTUAL + 1) if layers % v == 0 and wanted.virtual in (0, v)])
    most_F = np.where(sharding_F == 3, 1, np.minimum(layers, pool.num_chips // width_F))
    goes_S = (stages == wanted.pp) if wanted.pp else np.ones_like(stages, bool)
    goes_FS = (stages <= most_F[:, None]) & goes_S
    goes_SV = (virtual == 1) | ((stages[:, None] > 1) & (stages[:, None] * virtual <= layers))
    family, s, v = np.nonzero(goes_FS[:, :, None] & goes_SV)
    s, v = stages[s], virtual[v]
    unit = (experts_F // np.gcd(experts_F, width_F))[family]
    most = pool.num_chips // (width_F[family] * s) // unit * unit
    kept = most > 0
    family, s, v, unit, most = family[kept], s[kept], v[kept], unit[kept], most[kept]
    every = np.array([job.weights(pool, each) for each in families]).reshape(-1, 3)
    whole_F, longest_F, layer_F = every.T
    layers_s = v * -(-layers // (v * s)) * layer_F[family]
    slowest_s = np.maximum(np.maximum(whole_F[family] / s, longest_F[family]), layers_s)
    idle_s = job.factors[pool.chip.name].bubble * np.maximum(0, whole_F[family] - slowest_s) / v
    return Shapes(family, s, v, most, unit, width_F[family], micro_batch_F[family], slowest_s, idle_s)


def least_exchange_s(job: Job, pool: Pool, layout: Layout, window_s: float) -> float:
    """What shows at least of the exchange between replicas, beside `window_s` of compute: that of a stage
    with its even part of all parameters."""
    factors = job.factors[pool.chip.name]
    exchange = scaled(exchange_of(pool.chip, pool.network, layout), factors)
    dense, experts = job.sync_bytes(layout)
    average_s = exchange.latency_s + (dense * exchange.dense_s + experts * exchange.expert_s) / layout.pp
    gather_s = (dense * exchange.gather_s + experts * exchange.expert_gather_s) / layout.pp
    return exposed_s(window_s, average_s) + gather_s
