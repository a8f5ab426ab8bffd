"""A site's plan: its pools shared out among templates, and the batch among the templates' replicas."""

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from isthmus.planner.cost.network import BRIDGE
from isthmus.planner.layout import Layout
from isthmus.planner.search.alike import Found, pool_front, search_pool, waiting_of
from isthmus.planner.search.chain import Line, chain_front, search_chain
from isthmus.planner.search.front import Front, least_time
from isthmus.planner.search.judge import simulated_s
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.space import Family
from isthmus.planner.search.template import (
    Job,
    Miss,
    Segment,
    Template,
    chips_of,
    evaluate,
    explain_miss,
    layout_of,
)

MAX_POOLS_MIXED = 4
"""Pools whose every partition into pipelines is tried; more are planned each by itself."""
NEAR, MOST_PLAYED = 1.01, 4
"""Templates up to this much slower than the fastest, and so many of them, are played event by event."""


@dataclass(frozen=True)
class Packing:
    """Templates that together take a site's batch."""

    templates: tuple[Template, ...]
    step_s: float
    bound_s: float
    groups: dict[str, Template | Miss] = field(default_factory=dict)
    """What was considered, by name."""
    parts: tuple[tuple[Pool, ...], ...] = ()
    """The pools of each template."""

    @property
    def num_chips(self) -> int:
        return sum(template.num_chips for template in self.templates)

    @property
    def price(self) -> float:
        """Of an hour."""
        return sum(template.price for template in self.templates)


@dataclass
class _Site:
    """Searches of one site's parts, so that none is made twice."""

    job: Job
    pools: Sequence[Pool]
    fronts: dict[Hashable, Front] = field(default_factory=dict)
    found: Found = field(default_factory=Found)

    @property
    def nodes(self) -> int:
        return sum(pool.nodes for pool in self.pools)

    def front(self, part: tuple[Pool, ...]) -> Front:
        key = tuple(pool.key for pool in part)
        if key not in self.fronts:
            self.fronts[key] = (
                pool_front(self.job, part[0], self.nodes, self.found, len(self.pools) > 1)
                if len(part) == 1
                else chain_front(self.job, part, self.nodes, self.found)
            )
        return self.fronts[key]

    def fronts_of(self, parts: Sequence[tuple[Pool, ...]]) -> list[Front]:
        return [self.front(part) for part in parts]


def pack_site(job: Job, pools: Sequence[Pool]) -> Packing | dict[str, Miss]:
    """The fastest packing of one site's pools, or why nothing fits."""
    site = _Site(job, pools)
    best: Packing | None = None
    for parts in _partitions(pools):
        best = _faster(best, _pack(site, parts, best.step_s if best else math.inf))
    if best is None:
        return {name: group for name, group in site.found.groups.items() if isinstance(group, Miss)}
    best = _with_rests(site, best)
    return Packing(best.templates, best.step_s, _bound(site, best), site.found.groups, best.parts)


def _faster(best: Packing | None, other: Packing | None) -> Packing | None:
    if best is None or other is None:
        return best or other
    return other if other.step_s < best.step_s * (1 - 1e-9) else best


def _pack(site: _Site, parts: Sequence[tuple[Pool, ...]], limit_s: float) -> Packing | None:
    """One template for each part that is worth having, so that they take the batch in the least time."""
    if len(parts) == len(parts[0]) == 1:
        return _pack_alike(site, parts[0][0], limit_s)
    fronts = site.fronts_of(parts)
    least = least_time(fronts, site.job.batch, whole=True, limit_s=limit_s)
    chosen = zip(parts, fronts, least.chosen, strict=True) if least.chosen else ()
    built = [(part, front.built[each]) for part, front, each in chosen if each is not None]
    used = [(part, found[0]) for part, found in built if found is not None]
    if not used:
        return None
    templates = _trimmed(site.job, [template for _, template in used])
    return Packing(tuple(templates), joined_s(site.job, templates), 0.0, {}, tuple(part for part, _ in used))


def _pack_alike(site: _Site, pool: Pool, limit_s: float) -> Packing | None:
    found = search_pool(site.job, pool, site.job.batch, limit_s)
    if len(site.pools) == 1:
        site.found.groups.update(found.groups)
    if found.best is None or found.best.step_s >= limit_s:
        return None
    best = _played(site.job, found)
    return Packing((best,), best.step_s, found.bound_s, {}, ((pool,),))


def _played(job: Job, found: Found) -> Template:
    """Of the fastest and what comes close to it, the one whose step is shortest when it is played event by
    event: the closed form does not know how unlike stages wait, nor that sends run beside compute."""
    assert found.best is not None
    near = [
        each
        for each in found.groups.values()
        if isinstance(each, Template) and each.step_s <= NEAR * found.best.step_s
    ]
    fastest = sorted([found.best, *near], key=lambda each: each.step_s)[:MOST_PLAYED]
    return min(fastest, key=lambda each: simulated_s(job, each))


def _with_rests(site: _Site, packing: Packing) -> Packing:
    """With templates for the nodes that pools have idle."""
    parts = [
        piece
        for part, template in zip(packing.parts, packing.templates, strict=True)
        for piece in _pieces(part, template)
    ]
    if len(parts) == len(packing.parts):
        return packing
    return _faster(packing, _pack(site, parts, packing.step_s)) or packing


def _pieces(part: tuple[Pool, ...], template: Template) -> list[tuple[Pool, ...]]:
    """A pool's nodes that the template uses, and those that it leaves idle."""
    pool = part[0]
    used = math.ceil(template.num_chips / pool.per_node)
    if len(part) > 1 or used >= pool.nodes:
        return [part]
    return [(pool.take(used),), (pool.take(pool.nodes - used),)]


def _bound(site: _Site, best: Packing) -> float:
    """Seconds that no packing stays below, however many templates share each part and however they do: over
    all partitions, the least time in which chips take the batch if none of them need be left over (`front`).

    A packing is one template on some of the pools, or several, which at least pay for what they exchange
    (`_least_cross_s`). The lines are of steps in which all the site's nodes wait for each other. A packing
    that leaves some idle waits for fewer, but for no fewer than can take the batch within the best's time.
    """
    least_s, pools = best.step_s, site.pools
    for parts in _partitions(pools):
        fronts = site.fronts_of(parts)
        cross_s = _least_cross_s(site) if len(parts) > 1 else 0.0
        found = least_time(fronts, site.job.batch, whole=False, limit_s=best.step_s - cross_s)
        fewest = site.nodes * _least_share(site, parts, best.step_s)
        factors = [
            waiting_of(site.job, pool, fewest) / waiting_of(site.job, pool, site.nodes) for pool in pools
        ]
        least_s = min(least_s, found.bound_s * min(factors) + cross_s)
    return least_s


def _least_cross_s(site: _Site) -> float:
    """Of any two templates or more: the smallest has at most half of the chips."""
    rate = max(pool.chip.nic_gb_s for pool in site.pools) * 1e9
    return sum(site.job.sync_bytes(Layout())) / (sum(pool.num_chips for pool in site.pools) / 2) / rate


def _least_share(site: _Site, parts: Sequence[tuple[Pool, ...]], limit_s: float) -> float:
    """Part of the site's nodes without which the batch is out of reach within `limit_s`."""
    per_node = []
    for part, front in zip(parts, site.fronts_of(parts), strict=True):
        rows = np.arange(len(front.each_s))
        slack = max(waiting_of(site.job, pool, site.nodes) for pool in part)
        nodes = sum(pool.nodes for pool in part)
        per_node.append(float(front.sequences(rows, limit_s * slack, whole=False).max(initial=0.0)) / nodes)
    return min(1.0, site.job.batch / max(1e-30, max(per_node) * site.nodes))


def pack_runnable(job: Job, pools: Sequence[Pool]) -> Packing | dict[str, Miss]:
    """What `isthmus train` runs today: the whole model on every rank, and an even share of the batch."""
    num_ranks = sum(pool.num_chips for pool in pools)
    misses: dict[str, Miss] = {}
    best: Packing | None = None
    share = job.batch // num_ranks
    for micro_batch in [size for size in range(1, share + 1) if share % size == 0]:
        if job.run.train.micro_batch_size not in (0, micro_batch) or job.batch % num_ranks:
            continue
        family = Family(1, 1, 1, 1, micro_batch, "none", 0)
        trials = [_whole_model(job, pool, family, share // micro_batch) for pool in pools]
        templates = [trial for trial in trials if isinstance(trial, Template)]
        misses |= {f"micro-batch {micro_batch}": trial for trial in trials if isinstance(trial, Miss)}
        if len(templates) == len(pools):
            step_s = joined_s(job, templates)
            if best is None or step_s < best.step_s:
                best = Packing(tuple(templates), step_s, step_s, {f"micro-batch {micro_batch}": templates[0]})
    return best or misses


def _whole_model(job: Job, pool: Pool, family: Family, micro_batches: int) -> Template | Miss:
    layout = layout_of(job, pool, family, (1, 1, pool.num_chips, micro_batches))
    segments = (Segment(pool, 1, 1),)
    return evaluate(job, segments, layout) or explain_miss(job, segments, layout)


def pack_sites(job: Job, pools: Sequence[Pool], lines: Sequence[Line | None]) -> Packing | dict[str, Miss]:
    """One kind of pipeline over the pools of several sites, in this order."""
    found = search_chain(job, pools, job.batch, lines)
    if found.best is None:
        return {name: group for name, group in found.groups.items() if isinstance(group, Miss)}
    return Packing((found.best,), found.best.step_s, found.bound_s, found.groups)


def _trimmed(job: Job, templates: Sequence[Template]) -> list[Template]:
    """Without the replicas that the batch does not need, whole groups of experts at a time."""
    kept = list(templates)
    spare = sum(each.layout.dp * each.layout.replica_batch for each in kept) - job.batch
    for index in sorted(range(len(kept)), key=lambda at: -kept[at].layout.replica_batch):
        layout = kept[index].layout
        unit = layout.expert_unit
        fewer = min(layout.dp - 1, spare // layout.replica_batch) // unit * unit
        if fewer > 0:
            smaller = evaluate(job, kept[index].segments, replace(layout, dp=layout.dp - fewer))
            if smaller is not None and smaller.step_s <= kept[index].step_s:
                kept[index] = smaller
                spare -= fewer * layout.replica_batch
    return kept


def joined_s(job: Job, templates: Sequence[Template]) -> float:
    """Seconds of a step of several templates: the slowest, with all nodes waiting for each other, and the
    gradients between unlike replicas."""
    if len(templates) == 1:
        return templates[0].step_s
    nodes = sum(
        chips_of(each, template.layout) / each.pool.per_node
        for template in templates
        for each in template.segments
    )
    slowest_s = max(
        template.time.working_s * waiting_of(job, template.segments[0].pool, nodes) for template in templates
    )
    return slowest_s + cross_exchange_s(job, templates)


def cross_exchange_s(job: Job, templates: Sequence[Template]) -> float:
    """Gradients of unlike replicas do not lie alike: once each template has scattered its sum over its chips,
    the parts go over the network in an all-reduce among templates (fp32, a ring), slower where their
    collective libraries differ."""
    pools = [segment.pool for template in templates for segment in template.segments]
    bridged = len({pool.chip.collectives for pool in pools}) > 1
    rate = min(pool.chip.nic_gb_s for pool in pools) * 1e9 * (BRIDGE if bridged else 1)
    width = min(template.num_chips for template in templates)
    num_bytes = sum(job.sync_bytes(Layout()))
    return 2 * (len(templates) - 1) / len(templates) * num_bytes / width / rate


def _partitions(pools: Sequence[Pool]) -> Iterator[list[tuple[Pool, ...]]]:
    """Ways to group pools into pipelines, each by itself first; then some of them in one pipeline, or one
    alone, without the others."""
    if len(pools) > MAX_POOLS_MIXED:
        yield [(pool,) for pool in pools]
        yield from ([(pool,)] for pool in pools)
        return
    every = [[tuple(part) for part in parts] for parts in _set_partitions(list(pools))]
    yield from sorted(every, key=len, reverse=True)
    for size in range(len(pools) - 1, 0, -1):
        yield from ([part] for part in itertools.combinations(pools, size))


def _set_partitions(pools: list[Pool]) -> Iterator[list[list[Pool]]]:
    if not pools:
        yield []
        return
    first, *rest = pools
    for parts in _set_partitions(rest):
        yield [[first], *parts]
        for index in range(len(parts)):
            yield [*parts[:index], [first, *parts[index]], *parts[index + 1 :]]
