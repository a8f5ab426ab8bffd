"""The best template on one pool of like chips, by branch and bound.

A candidate is a family of layouts (`space.Family`) with a number of stages, chunks and replicas. Its time has
a lower bound that needs no split: of W seconds that a micro-batch takes through all blocks, the slowest of S
stages has at least W / S, at least the longest block, and at least L / S layers, rounded up; with t of these

    T >= m t + (W - t) / v

and waiting for the slowest comes on top. A second bound adds what replicas exchange at least (an average
stage's part). Candidates are cut into stages from the lowest bound on; once a bound reaches the best time
found, nothing that is left can be better: the answer is the best of all candidates, not only of those tried.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from isthmus.planner.cost.ideal import JITTER, STEP_S
from isthmus.planner.cost.memory import ChipParams, state_bytes
from isthmus.planner.cost.step import hidden_over
from isthmus.planner.cost.tabulate import GRAD_BYTES
from isthmus.planner.layout import Layout
from isthmus.planner.search.front import Front, Lines
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.shapes import Floats, Ints, Shapes, least_exchange_s, shapes_on
from isthmus.planner.search.space import Family, families
from isthmus.planner.search.template import (
    Job,
    Miss,
    Segment,
    Template,
    evaluate,
    explain_miss,
    layout_of,
)

MAX_TRIALS = 3000
"""Candidates that are tried at most; the bound that is left then is part of the answer."""


class Candidates(NamedTuple):
    """Shapes with what a batch makes of them; arrays, one entry each."""

    shapes: Shapes
    replicas: Ints
    micro_batches: Ints
    bound_s: Floats

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """Stages, chunks, replicas, micro-batches."""
        columns = (self.shapes.stages, self.shapes.virtual, self.replicas, self.micro_batches)
        stages, virtual, replicas, micro_batches = (int(column[index]) for column in columns)
        return stages, virtual, replicas, micro_batches


@dataclass
class Found:
    """What a search has seen: the best template, the best of each group, and why others do not run."""

    best: Template | None = None
    """The fastest."""
    groups: dict[str, Template | Miss] = field(default_factory=dict)
    """By 'tp 4, pp 12'."""
    bound_s: float = math.inf
    """No candidate is faster."""
    trials: int = 0

    def take(self, template: Template, name: str) -> None:
        if self.best is None or _rank(template) < _rank(self.best):
            self.best = template
        known = self.groups.get(name)
        if not isinstance(known, Template) or _rank(template) < _rank(known):
            self.groups[name] = template

    @property
    def limit_s(self) -> float:
        """Above it a candidate is of no use."""
        return self.best.step_s if self.best else math.inf


def _rank(template: Template) -> tuple[float, int, str]:
    return (template.step_s, template.num_chips, str(template.layout))


def group_name(layout: Layout) -> str:
    parts = [("tp", layout.tp), ("cp", layout.cp), ("pp", layout.pp), ("ep", layout.ep)]
    sharded = ", sharded" if layout.sharding == 3 else ""
    return ", ".join(f"{name} {size}" for name, size in parts if size > 1 or name in ("tp", "pp")) + sharded


def search_pool(job: Job, pool: Pool, batch: int, limit_s: float = math.inf) -> Found:
    """The fastest template for `batch` sequences a step. Deterministic. Those that cannot take less than
    `limit_s` are not tried; then `bound_s` is at least that."""
    found = Found(bound_s=limit_s)
    for bound_s, layout in _by_bound(job, pool, batch, limit_s):
        if bound_s >= min(limit_s, found.limit_s) or found.trials >= MAX_TRIALS:
            found.bound_s = bound_s
            break
        _try(job, pool, layout, found, group_name(layout))
    if found.best:
        found.bound_s = min(found.bound_s, found.best.step_s)
    return found


def pool_front(job: Job, pool: Pool, nodes: float, found: Found, named: bool) -> Front:
    """All candidates of the pool with as many replicas as its chips give. `nodes`: those of the site, which
    wait for each other. What is built goes to `found`, with the pool's name if `named`.

    Their lines: a is the least time of the slowest stage (with what ZeRO 3 shows in each micro-batch), c the
    filling of the pipeline, what shows of the exchange and the fixed part of a step.
    """
    usable = usable_families(job, pool)
    shapes = shapes_on(job, pool, usable)
    replicas = np.minimum(shapes.most, -(-job.batch // shapes.micro_batch)) // shapes.unit * shapes.unit
    shapes, replicas = shapes.where(replicas > 0), replicas[replicas > 0]
    factors, waiting = job.factors[pool.chip.name], waiting_of(job, pool, nodes)

    def layout(row: int, dp: int, count: int) -> Layout:
        shape = int(shapes.stages[row]), int(shapes.virtual[row]), dp, count
        return layout_of(job, pool, usable[shapes.family[row]], shape)

    def tighten(row: int) -> tuple[float, float]:
        # Half of the replicas: their share of the exchange is no larger if not all of them are used.
        half = layout(row, max(1, int(replicas[row]) // 2), 1)
        if not holds_states(job, pool, layout(row, int(replicas[row]), 1)):
            return 0.0, math.inf
        shown_s = waiting * least_exchange_s(job, pool, half, float(shapes.slowest_s[row]))
        return (shown_s, 0.0) if half.sharding == 3 else (0.0, shown_s)

    def build(row: int, count: int) -> tuple[Template, float] | None:
        chosen = layout(row, int(replicas[row]), count)
        name = group_name(chosen) + (f" ({pool.name})" if named else "")
        template = _try(job, pool, chosen, found, name)
        return template and (template, waiting * template.time.working_s)

    return Front(
        Lines(
            each_s=waiting * shapes.slowest_s,
            rest_s=waiting * (shapes.idle_s + factors.overhead * factors.total * STEP_S),
            whole=np.asarray(replicas * shapes.micro_batch, np.float64),
            cut=pool.num_chips / (shapes.width * shapes.stages) * shapes.micro_batch,
            turn=np.where(shapes.virtual > 1, shapes.stages, 1),
        ),
        tighten,
        build,
        least_in_flight=lambda row: int(shapes.stages[row]) * min(2, int(shapes.virtual[row])),
    )


def usable_families(job: Job, pool: Pool) -> list[Family]:
    """Those that the pool has the chips for."""
    return [each for each in families(job.run, pool.per_node) if each.tp * each.cp <= pool.num_chips]


def _by_bound(job: Job, pool: Pool, batch: int, limit_s: float) -> Iterator[tuple[float, Layout]]:
    """Candidates from the lowest bound on: the simple bound says who is next to get the second one. Those
    whose simple bound is `limit_s` or more are left out."""
    usable = usable_families(job, pool)
    every = candidates(job, pool, shapes_on(job, pool, usable), batch)
    shapes = every.shapes
    waiting: list[tuple[float, int, Layout]] = []
    for index in np.lexsort((shapes.stages, shapes.family, every.bound_s)).tolist():
        simple_s = float(every.bound_s[index])
        if simple_s >= limit_s:
            break
        while waiting and waiting[0][0] <= simple_s:
            bound_s, _, layout = heapq.heappop(waiting)
            yield bound_s, layout
        layout = layout_of(job, pool, usable[shapes.family[index]], every.shape(index))
        window_s = float(shapes.slowest_s[index]) * layout.micro_batches / hidden_over(layout)
        exchange_s = least_exchange_s(job, pool, layout, window_s)
        bound_s = simple_s + exchange_s * waiting_factor(job, pool, layout)
        heapq.heappush(waiting, (bound_s, index, layout))
    while waiting:
        bound_s, _, layout = heapq.heappop(waiting)
        yield bound_s, layout


def _try(job: Job, pool: Pool, layout: Layout, found: Found, name: str) -> Template | None:
    segments = (Segment(pool, layout.tp, layout.pp),)
    found.trials += 1
    template = evaluate(job, segments, layout) if may_fit(job, segments[0], layout) else None
    if template is not None:
        found.take(template, name)
    elif name not in found.groups:
        found.groups[name] = explain_miss(job, segments, layout)
    return template


def waiting_factor(job: Job, pool: Pool, layout: Layout) -> float:
    return waiting_of(job, pool, layout.num_chips / pool.per_node)


def waiting_of(job: Job, pool: Pool, nodes: float) -> float:
    """By which a step takes longer if so many nodes wait for each other."""
    return 1 + job.factors[pool.chip.name].jitter * JITTER * math.log2(max(1.0, nodes))


def holds_states(job: Job, pool: Pool, layout: Layout) -> bool:
    """Whether an even part of the states fits: of the checks the cheapest."""
    params = ChipParams(*(each / GRAD_BYTES for each in job.sync_bytes(layout)))
    state = state_bytes(params, layout, job.convention).total / layout.pp
    return state <= pool.chip.memory_bytes * (1 - job.run.goal.headroom)


def may_fit(job: Job, segment: Segment, layout: Layout) -> bool:
    """Whether the states alone, spread evenly, leave room. Saves the split of what is far too large."""
    table = job.table(segment.pool, layout)
    room = segment.pool.chip.memory_bytes * (1 - job.run.goal.headroom) - table.fixed_bytes
    return table.state_sum / layout.pp <= room


def candidates(job: Job, pool: Pool, shapes: Shapes, batch: int) -> Candidates:
    """As many replicas as the chips give, or fewer where as many micro-batches come out. Interleaved
    schedules have micro-batches in multiples of the stages (Megatron-LM)."""
    rounds = -(-batch // shapes.micro_batch)
    replicas = np.minimum(shapes.most, rounds) // shapes.unit * shapes.unit
    kept = replicas > 0
    shapes, rounds, replicas = shapes.where(kept), rounds[kept], replicas[kept]
    turn = np.where(shapes.virtual > 1, shapes.stages, 1)
    micro_batches = -(-rounds // (replicas * turn)) * turn
    replicas = -(-rounds // (micro_batches * shapes.unit)) * shapes.unit
    nodes = np.maximum(1, shapes.stages * replicas * shapes.width / pool.per_node)
    waiting = 1 + job.factors[pool.chip.name].jitter * JITTER * np.log2(nodes)
    bound_s = (micro_batches * shapes.slowest_s + shapes.idle_s) * waiting
    return Candidates(shapes, replicas, micro_batches, bound_s)
