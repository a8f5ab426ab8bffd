"""A site's plan: its pools shared out among templates, and the batch among the templates' replicas."""

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from isthmus.planner.layout import Layout
from isthmus.planner.search.alike import Found, search_pool
from isthmus.planner.search.chain import Line, search_chain
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.space import Family
from isthmus.planner.search.template import (
    Job,
    Miss,
    Segment,
    Template,
    evaluate,
    explain_miss,
    layout_of,
)

MAX_POOLS_MIXED = 4
"""Pools whose every partition into pipelines is tried; more are planned each by itself."""
TEMPLATES_KEPT = 3
"""Of each pool, so that some of them share the batch without a rest."""
BRIDGE = 0.5
"""Part of the network's bandwidth between chips of unlike collective libraries: two copies through host
memory instead of none. Believed; `isthmus probe` does not measure it."""


@dataclass(frozen=True)
class Packing:
    """Templates that together take a site's batch."""

    templates: tuple[Template, ...]
    step_s: float
    bound_s: float
    groups: dict[str, Template | Miss] = field(default_factory=dict)
    """What was considered, by name."""

    @property
    def num_chips(self) -> int:
        return sum(template.num_chips for template in self.templates)

    @property
    def price(self) -> float:
        """Of an hour."""
        return sum(template.price for template in self.templates)


@dataclass
class _Seen:
    """Searches of one site's parts, so that none is made twice."""

    job: Job
    found: dict[Hashable, Found] = field(default_factory=dict)
    groups: dict[str, Template | Miss] = field(default_factory=dict)

    def search(self, part: tuple[Pool, ...], batch: int, limit_s: float = math.inf) -> Found:
        key = (tuple(pool.key for pool in part), batch)
        if key not in self.found:
            self.found[key] = (
                search_pool(self.job, part[0], batch, keep=TEMPLATES_KEPT)
                if len(part) == 1
                else search_chain(self.job, part, batch, limit_s=limit_s)
            )
        return self.found[key]


def pack_site(job: Job, pools: Sequence[Pool]) -> Packing | dict[str, Miss]:
    """The fastest packing of one site's pools, or why nothing fits."""
    seen = _Seen(job)
    best: Packing | None = None
    for parts in _partitions(pools):
        packing = _pack(seen, parts, best.step_s if best else math.inf)
        if packing is not None and (best is None or packing.step_s < best.step_s * (1 - 1e-9)):
            best = packing
    if best is None:
        return {name: group for name, group in seen.groups.items() if isinstance(group, Miss)}
    bound_s = min(best.step_s, best.bound_s if len(pools) == 1 else _packed_bound(seen, pools))
    return Packing(best.templates, best.step_s, bound_s, seen.groups)


def _packed_bound(seen: _Seen, pools: Sequence[Pool]) -> float:
    """Seconds of a step if every part worked at the best rate that its search allows for the whole batch.

    A part is never faster per sequence with less of the batch: its pipelines fill and its gradients are
    exchanged once a step, however many sequences share that.
    """
    bounds = []
    for parts in _partitions(pools):
        least = [seen.search(part, seen.job.batch).bound_s for part in parts]
        bounds.append(1 / sum(1 / each_s for each_s in least))
    return min(bounds)


def pack_runnable(job: Job, pools: Sequence[Pool]) -> Packing | dict[str, Miss]:
    """What `isthmus train` runs today: the whole model on every rank, and an even share of the batch."""
    num_ranks = sum(pool.num_chips for pool in pools)
    groups: dict[str, Template | Miss] = {}
    best: list[Template] = []
    share = job.batch // num_ranks
    for micro_batch in [size for size in range(1, share + 1) if share % size == 0]:
        if job.run.train.micro_batch_size not in (0, micro_batch) or job.batch % num_ranks:
            continue
        family = Family(1, 1, 1, 1, micro_batch, "none", 0)
        trials = [_whole_model(job, pool, family, share // micro_batch) for pool in pools]
        groups |= {f"micro-batch {micro_batch} ({_told(each)})": each for each in trials}
        templates = [trial for trial in trials if isinstance(trial, Template)]
        if len(templates) == len(pools) and (not best or joined_s(job, templates) < joined_s(job, best)):
            best = templates
    if not best:
        return {name: group for name, group in groups.items() if isinstance(group, Miss)}
    step_s = joined_s(job, best)
    return Packing(tuple(best), step_s, step_s, groups)


def _told(trial: Template | Miss) -> str:
    return trial.where if isinstance(trial, Miss) else trial.segments[0].pool.name


def _whole_model(job: Job, pool: Pool, family: Family, micro_batches: int) -> Template | Miss:
    layout = layout_of(job, pool, family, (1, 1, pool.num_chips, micro_batches))
    segments = (Segment(pool, 1, 1),)
    return evaluate(job, segments, layout) or explain_miss(job, segments, layout)


def pack_sites(job: Job, pools: Sequence[Pool], lines: Sequence[Line | None]) -> Packing | dict[str, Miss]:
    """One kind of pipeline over the pools of several sites, in this order."""
    found = search_chain(job, pools, job.batch, lines)
    if not found.best:
        return {name: group for name, group in found.groups.items() if isinstance(group, Miss)}
    return Packing((found.best[0],), found.best[0].step_s, found.bound_s, found.groups)


def _pack(seen: _Seen, parts: Sequence[tuple[Pool, ...]], limit_s: float) -> Packing | None:
    """The parts' templates that share the batch best; what a lone template leaves idle is packed too."""
    job = seen.job
    power = [sum(pool.num_chips * strength(pool) for pool in part) for part in parts]
    choices: list[list[Template]] = []
    bound_s = math.inf
    for part, mine in zip(parts, power, strict=True):
        batch = max(1, round(job.batch * mine / sum(power)))
        found = seen.search(part, batch, limit_s)
        bound_s = found.bound_s
        seen.groups.update({_named(name, part, parts): group for name, group in found.groups.items()})
        kept = found.best if len(parts) == 1 else [*found.best, *seen.search(part, job.batch).best]
        if kept:
            choices.append(kept)
    if not choices:
        return None
    shared = min(
        (share_batch(job, templates) for templates in itertools.product(*choices)),
        key=lambda templates: joined_s(job, templates),
    )
    lone = len(parts) == len(parts[0]) == 1
    rest = _rest(parts[0][0], shared[0]) if lone else None
    if rest is not None and (more := _with_rest(job, shared[0], rest)) is not None:
        shared = min(shared, more, key=lambda templates: joined_s(job, templates))
    return Packing(tuple(shared), joined_s(job, shared), bound_s)


def _named(name: str, part: tuple[Pool, ...], parts: Sequence[tuple[Pool, ...]]) -> str:
    if len(parts) == 1 or len(part) != 1:
        return name
    return f"{name} ({part[0].name})"


def strength(pool: Pool) -> float:
    return pool.speed * max(pool.chip.bf16_tflops, pool.chip.fp32_tflops)


def _rest(pool: Pool, template: Template) -> Pool | None:
    """The nodes that a template leaves idle."""
    idle = pool.nodes - math.ceil(template.num_chips / pool.per_node)
    return pool.take(idle) if idle > 0 else None


def _with_rest(job: Job, template: Template, rest: Pool) -> list[Template] | None:
    share = round(job.batch * rest.num_chips / (rest.num_chips + template.num_chips))
    if share < 1:
        return None
    found = search_pool(job, rest, share)
    return share_batch(job, [template, found.best[0]]) if found.best else None


def share_batch(job: Job, templates: Sequence[Template]) -> list[Template]:
    """Micro-batches for each template's replicas, so that all end at about the same time.

    T_i(m) = a_i m + c_i; the least T at which the replicas take the whole batch is found by bisection.
    Templates that would get nothing are left out.
    """
    counts = shares(templates, job.batch)
    return [_with_micro_batches(job, each, m) for each, m in zip(templates, counts, strict=True) if m > 0]


def shares(templates: Sequence[Template], batch: int) -> list[int]:
    """Micro-batches of each template's replicas with which all end at about the same time (`share_batch`)."""
    if len(templates) == 1:
        return [_needed(templates[0].layout, batch)]
    rates = [_line(template) for template in templates]
    low, high = (
        0.0,
        max(a * _needed(t.layout, batch) + c for (a, c), t in zip(rates, templates, strict=True)),
    )
    for _ in range(60):
        middle = (low + high) / 2
        if _taken(templates, _counts(rates, templates, middle)) >= batch:
            high = middle
        else:
            low = middle
    return _counts(rates, templates, high)


def _line(template: Template) -> tuple[float, float]:
    """(a, c) of T(m) = a m + c."""
    each_s = template.time.compute_s / template.layout.micro_batches
    return each_s, template.step_s - template.time.compute_s


def _counts(rates: Sequence[tuple[float, float]], templates: Sequence[Template], limit_s: float) -> list[int]:
    counts = []
    for (each_s, rest_s), template in zip(rates, templates, strict=True):
        count = max(0, int((limit_s - rest_s) / each_s))
        if template.layout.virtual > 1:
            count -= count % template.layout.pp
        counts.append(count)
    return counts


def _taken(templates: Sequence[Template], counts: Sequence[int]) -> int:
    return sum(
        template.layout.dp * template.layout.micro_batch * count
        for template, count in zip(templates, counts, strict=True)
    )


def _needed(layout: Layout, batch: int) -> int:
    count = -(-batch // (layout.dp * layout.micro_batch))
    return -(-count // layout.pp) * layout.pp if layout.virtual > 1 else count


def _with_micro_batches(job: Job, template: Template, count: int) -> Template:
    if count == template.layout.micro_batches:
        return template
    layout = replace(template.layout, micro_batches=count)
    return evaluate(job, template.segments, layout) or template


def joined_s(job: Job, templates: Sequence[Template]) -> float:
    """Seconds of a step of several templates: the slowest, and the gradients between unlike replicas."""
    return max(template.step_s for template in templates) + cross_exchange_s(job, templates)


def cross_exchange_s(job: Job, templates: Sequence[Template]) -> float:
    """Gradients of unlike replicas do not lie alike: once each template has scattered its sum over its chips,
    the parts go over the network in an all-reduce among templates (fp32, a ring), slower where their
    collective libraries differ."""
    if len(templates) == 1:
        return 0.0
    pools = [segment.pool for template in templates for segment in template.segments]
    bridged = len({pool.chip.collectives for pool in pools}) > 1
    rate = min(pool.chip.nic_gb_s for pool in pools) * 1e9 * (BRIDGE if bridged else 1)
    width = min(template.num_chips for template in templates)
    num_bytes = 4 * sum(job.table(pools[0], templates[0].layout).sync_sums) * templates[0].layout.tp
    return 2 * (len(templates) - 1) / len(templates) * num_bytes / width / rate


def _partitions(pools: Sequence[Pool]) -> Iterator[list[tuple[Pool, ...]]]:
    """Ways to group pools into pipelines: each by itself first."""
    if len(pools) > MAX_POOLS_MIXED:
        yield [(pool,) for pool in pools]
        return
    every = [[tuple(part) for part in parts] for parts in _set_partitions(list(pools))]
    yield from sorted(every, key=len, reverse=True)


def _set_partitions(pools: list[Pool]) -> Iterator[list[list[Pool]]]:
    if not pools:
        yield []
        return
    first, *rest = pools
    for parts in _set_partitions(rest):
        yield [[first], *parts]
        for index in range(len(parts)):
            yield [*parts[:index], [first, *parts[index]], *parts[index + 1 :]]
