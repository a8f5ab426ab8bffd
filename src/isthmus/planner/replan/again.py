"""A new layout for the sites of one group, warm: what runs already bounds the search.

With the batch shared out among the bands as now, every band takes at most T. A better packing of the same
pools gives some pool at least the share that it has now, and takes less than T there; a pipeline is never
slower with fewer micro-batches, so it takes less than T with the present share as well. So each band's pools
are searched with that share for what takes less than T, and where there is nothing, the pools keep theirs.
Other ways to group the pools into pipelines are not looked at, unless nothing runs.
"""

import itertools
from collections.abc import Sequence

from msgspec.structs import replace

from isthmus.planner.replan.band import Band, Lines, Pools, band_of, nodes_used
from isthmus.planner.replan.harm import shared_out, step_of
from isthmus.planner.search.alike import search_pool
from isthmus.planner.search.chain import Line, search_chain
from isthmus.planner.search.pack import Packing, pack_runnable, pack_site, pack_sites
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.template import Job, Template


def search_again(
    job: Job, pools: Pools, lines: Lines, sites: Sequence[str], bands: Sequence[Band], limit_s: float
) -> list[Band] | None:
    """`bands` is the best that is known, which takes `limit_s`; None: nothing is better."""
    if any(site not in pools for site in sites):
        return None
    if not bands:
        return _from_nothing(job, pools, lines, sites)
    options: list[list[Band]] = []
    for index, band in enumerate(bands):
        others = [*bands[:index], *bands[index + 1 :]]
        places = list(dict.fromkeys((s.pool.site, s.pool.name) for s in band.teams[0].segments))
        part = [_free(pools[site], others, site, chip) for site, chip in places]
        whole = [pool for pool in part if pool is not None]
        if len(whole) == len(places):
            options += _improved(job, lines, bands, index, _search(job, lines, whole, band, limit_s))
    idle = [pool for site in sites for pool in pools[site] if not nodes_used(bands, site, pool.name)]
    options += [more for pool in idle if (more := _joined(job, lines, bands, pool, limit_s)) is not None]
    best = min(options, key=lambda each: step_of(job, each, lines), default=None)
    return None if best is None or step_of(job, best, lines) >= limit_s else best


def _search(job: Job, lines: Lines, part: Sequence[Pool], band: Band, limit_s: float) -> Template | None:
    if len(part) == 1:
        found = search_pool(job, part[0], band.sequences, limit_s=limit_s)
    else:
        found = search_chain(job, part, band.sequences, _between(part, lines), limit_s)
    return found.best if found.best and found.best.step_s < limit_s else None


def _between(part: Sequence[Pool], lines: Lines) -> list[Line | None]:
    """Empty where all is at one site: then the pools may come in any order."""
    if len({pool.site for pool in part}) == 1:
        return []
    return [None if a.site == b.site else lines[a.site, b.site] for a, b in itertools.pairwise(part)]


def _improved(
    job: Job, lines: Lines, bands: Sequence[Band], index: int, template: Template | None
) -> list[list[Band]]:
    if template is None:
        return []
    new = [*bands[:index], band_of(template), *bands[index + 1 :]]
    return [each for each in (new, shared_out(job, new, lines)) if each is not None]


def _joined(job: Job, lines: Lines, bands: Sequence[Band], pool: Pool, limit_s: float) -> list[Band] | None:
    """With a pool that no band uses, for as much of the batch as its share of the chips."""
    chips = sum(_chips(band) for band in bands)
    share = round(job.batch * pool.num_chips / (pool.num_chips + chips))
    found = search_pool(job, pool, share, limit_s=limit_s) if share else None
    if found is None or not found.best:
        return None
    return shared_out(job, [*bands, band_of(found.best)], lines)


def _chips(band: Band) -> int:
    per_replica = sum(each.stages * each.tp for each in band.teams[0].segments) * band.layout.cp
    return per_replica * band.layout.dp


def _free(pools: Sequence[Pool], others: Sequence[Band], site: str, chip: str) -> Pool | None:
    """The strongest pool of that kind, without what other bands have of it."""
    named = [pool for pool in pools if pool.name == chip]
    if not named:
        return None
    pool = max(named, key=lambda each: each.nodes * each.speed)
    free = pool.nodes - nodes_used(others, site, chip)
    return replace(pool, nodes=free) if free > 0 else None


def _from_nothing(job: Job, pools: Pools, lines: Lines, sites: Sequence[str]) -> list[Band] | None:
    part = [pool for site in sites for pool in pools[site]]
    if job.convention.name == "isthmus":
        found = pack_runnable(job, part)
    else:
        found = pack_sites(job, part, _between(part, lines)) if len(sites) > 1 else pack_site(job, part)
    return [band_of(each) for each in found.templates] if isinstance(found, Packing) else None
