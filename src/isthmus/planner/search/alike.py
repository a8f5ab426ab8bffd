"""The best template on one pool of like chips, by branch and bound.

A candidate is a family of layouts (`space.Family`) with a number of stages, chunks and replicas. Its time has
a lower bound that needs no split: of W seconds that a micro-batch takes through all blocks, the slowest of S
stages has at least W / S, and at least the longest block, so that

    T >= m max(W / S, w_max) + (W - W / S) / v

and waiting for the slowest comes on top. A second bound adds what replicas exchange at least (an average
stage's part). Candidates are cut into stages from the lowest bound on; once a bound reaches the best time
found, nothing that is left can be better: the answer is the best of all candidates, not only of those tried.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from isthmus.planner.cost.ideal import JITTER
from isthmus.planner.cost.step import exposed_s, hidden_over
from isthmus.planner.layout import Layout
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.space import Family, families
from isthmus.planner.search.template import (
    Job,
    Miss,
    Segment,
    Template,
    evaluate,
    exchange_for,
    explain_miss,
    layout_of,
)

MAX_TRIALS = 3000
"""Candidates that are tried at most; the bound that is left then is part of the answer."""
MAX_VIRTUAL = 16


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Candidates(NamedTuple):
    """Arrays, one entry each."""

    bound_s: Floats
    family: Ints
    stages: Ints
    virtual: Ints
    replicas: Ints
    micro_batches: Ints
    slowest_s: Floats
    """Least seconds of a micro-batch on the slowest stage."""

    def shape(self, index: int) -> tuple[int, int, int, int]:
        return (
            int(self.stages[index]),
            int(self.virtual[index]),
            int(self.replicas[index]),
            int(self.micro_batches[index]),
        )


@dataclass
class Found:
    """What a search has seen: the best templates, the best of each group, and why others do not run."""

    best: list[Template] = field(default_factory=list)
    """Fastest first, at most a few."""
    groups: dict[str, Template | Miss] = field(default_factory=dict)
    """By 'tp 4, pp 12'."""
    bound_s: float = math.inf
    """No candidate is faster."""
    trials: int = 0

    def take(self, template: Template, keep: int, name: str) -> None:
        self.best = sorted([*self.best, template], key=_rank)[:keep]
        known = self.groups.get(name)
        if not isinstance(known, Template) or _rank(template) < _rank(known):
            self.groups[name] = template

    @property
    def limit_s(self) -> float:
        """Above it a candidate is of no use."""
        return self.best[-1].step_s if self.best else math.inf


def _rank(template: Template) -> tuple[float, int, str]:
    return (template.step_s, template.num_chips, str(template.layout))


def group_name(layout: Layout) -> str:
    parts = [("tp", layout.tp), ("cp", layout.cp), ("pp", layout.pp), ("ep", layout.ep)]
    sharded = ", sharded" if layout.sharding == 3 else ""
    return ", ".join(f"{name} {size}" for name, size in parts if size > 1 or name in ("tp", "pp")) + sharded


def search_pool(job: Job, pool: Pool, batch: int, keep: int = 1, limit_s: float = math.inf) -> Found:
    """The `keep` fastest templates for `batch` sequences a step. Deterministic. Those that cannot take less
    than `limit_s` are not tried; then `bound_s` is at least that."""
    found = Found(bound_s=limit_s)
    for bound_s, layout in _by_bound(job, pool, batch, limit_s):
        enough = min(limit_s, found.limit_s) if len(found.best) == keep else limit_s
        if bound_s >= enough or found.trials >= MAX_TRIALS:
            found.bound_s = bound_s
            break
        _try(job, pool, layout, found, keep)
    if found.best:
        found.bound_s = min(found.bound_s, found.best[0].step_s)
    return found


def _by_bound(job: Job, pool: Pool, batch: int, limit_s: float = math.inf) -> Iterator[tuple[float, Layout]]:
    """Candidates from the lowest bound on: the simple bound says who is next to get the second one. Those
    whose simple bound is `limit_s` or more are left out."""
    usable = families(job.run, pool.per_node)
    fits = [family for family in usable if family.tp * family.cp <= pool.num_chips]
    every = candidates(job, pool, fits, batch)
    waiting: list[tuple[float, int, Layout]] = []
    for index in np.lexsort((every.stages, every.family, every.bound_s)).tolist():
        simple_s = float(every.bound_s[index])
        if simple_s >= limit_s:
            break
        while waiting and waiting[0][0] <= simple_s:
            bound_s, _, layout = heapq.heappop(waiting)
            yield bound_s, layout
        layout = layout_of(job, pool, fits[every.family[index]], every.shape(index))
        bound_s = _bound_with_exchange(job, pool, layout, float(every.slowest_s[index]), simple_s)
        heapq.heappush(waiting, (bound_s, index, layout))
    while waiting:
        bound_s, _, layout = heapq.heappop(waiting)
        yield bound_s, layout


def _bound_with_exchange(job: Job, pool: Pool, layout: Layout, slowest_s: float, bound_s: float) -> float:
    """The bound with the exchange of a stage that has its even part of all parameters."""
    table = job.table(pool, replace(layout, dp=1, pp=1))
    exchange = exchange_for(job, pool, layout)
    dense, experts = table.sync_sums
    average_s = exchange.latency_s + (dense * exchange.dense_s + experts * exchange.expert_s) / layout.pp
    gather_s = (dense * exchange.gather_s + experts * exchange.expert_gather_s) / layout.pp
    window_s = slowest_s * layout.micro_batches / hidden_over(layout)
    return bound_s + (exposed_s(window_s, average_s) + gather_s) * waiting_factor(job, pool, layout)


def _try(job: Job, pool: Pool, layout: Layout, found: Found, keep: int) -> None:
    segments = (Segment(pool, layout.tp, layout.pp),)
    found.trials += 1
    template = evaluate(job, segments, layout) if _may_fit(job, segments[0], layout) else None
    if template is not None:
        found.take(template, keep, group_name(layout))
    elif (name := group_name(layout)) not in found.groups:
        found.groups[name] = explain_miss(job, segments, layout)


def waiting_factor(job: Job, pool: Pool, layout: Layout) -> float:
    nodes = max(1.0, layout.num_chips / pool.per_node)
    return 1 + job.factors[pool.chip.name].jitter * JITTER * math.log2(nodes)


def _may_fit(job: Job, segment: Segment, layout: Layout) -> bool:
    """Whether the states alone, spread evenly, leave room. Saves the split of what is far too large."""
    table = job.table(segment.pool, layout)
    room = segment.pool.chip.memory_bytes * (1 - job.run.goal.headroom) - table.fixed_bytes
    return table.state_sum / layout.pp <= room


def candidates(job: Job, pool: Pool, all_families: Sequence[Family], batch: int) -> Candidates:
    """Every shape of every family, with its bound."""
    shapes = [_shapes(job, pool, family, batch) for family in all_families]
    if not shapes:
        empty = np.zeros(0, np.int64)
        return Candidates(np.zeros(0), empty, empty, empty, empty, empty, np.zeros(0))
    family = np.repeat(np.arange(len(shapes)), [shape.shape[1] for shape in shapes])
    stages, virtual, replicas, micro_batches = np.concatenate(shapes, axis=1)
    whole, longest = np.array([weights(job, pool, each) for each in all_families]).T
    slowest = np.maximum(whole[family] / stages, longest[family])
    factors = job.factors[pool.chip.name]
    idle = factors.bubble * np.maximum(0, whole[family] - slowest) / virtual
    width = np.array([each.tp * each.cp for each in all_families])[family]
    nodes = np.maximum(1, stages * replicas * width / pool.per_node)
    bound_s = (micro_batches * slowest + idle) * (1 + factors.jitter * JITTER * np.log2(nodes))
    return Candidates(bound_s, family, stages, virtual, replicas, micro_batches, slowest)


def _shapes(job: Job, pool: Pool, family: Family, batch: int) -> Ints:
    """[4, N]: stages, chunks, replicas, micro-batches. Replicas are as many as the chips give, or fewer where
    as many micro-batches come out; all of them fill their expert groups."""
    num_layers = job.run.model.num_layers
    wanted, fixed = job.run.parallel, job.run.parallel.virtual
    most = min(num_layers, pool.num_chips // (family.tp * family.cp)) if family.sharding != 3 else 1
    stages = np.arange(1, most + 1)
    if wanted.pp:
        stages = stages[stages == wanted.pp]
    # replicas whose expert-parallel groups come out whole
    unit = family.ep * family.etp // math.gcd(family.ep * family.etp, family.cp * family.tp)
    rounds = -(-batch // family.micro_batch)
    replicas = np.minimum(pool.num_chips // (family.tp * family.cp * stages), rounds) // unit * unit
    stages, replicas = stages[replicas > 0], replicas[replicas > 0]
    micro_batches = -(-rounds // replicas)
    needed = -(-rounds // micro_batches)
    replicas = -(-needed // unit) * unit
    columns = [np.stack([stages, np.ones_like(stages), replicas, micro_batches])]
    for virtual in range(2, MAX_VIRTUAL + 1):
        if num_layers % virtual == 0 and fixed in (0, virtual):
            goes = (stages > 1) & (stages <= num_layers // virtual) & (micro_batches % stages == 0)
            even = columns[0][:, goes]
            even[1] = virtual
            columns.append(even)
    return np.concatenate(columns[1:] if fixed > 1 else columns, axis=1)


def weights(job: Job, pool: Pool, family: Family) -> tuple[float, float]:
    """Seconds of a micro-batch: through all blocks, and through the longest. Sharding does not enter them, so
    families that differ in it alone share a table."""
    layout = layout_of(job, pool, family, (1, 1, 1, 1))
    table = job.table(pool, replace(layout, sharding=1))
    block_s = table.forward_s + table.backward_s
    if job.run.parallel.recompute == "full":
        block_s = block_s + table.recompute_s
    return float(block_s.sum()), float(block_s.max())
