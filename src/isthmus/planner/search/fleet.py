"""The fleet's plan: which sites train beside each other, which share a pipeline, and which are left out."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.errors import InputError
from isthmus.planner.cost.convention import ISTHMUS, MEGATRON
from isthmus.planner.link import shared_link
from isthmus.planner.probed.profile import Profile
from isthmus.planner.search.chain import Line
from isthmus.planner.search.judge import factors_for
from isthmus.planner.search.pack import Packing, pack_runnable, pack_site, pack_sites
from isthmus.planner.search.pools import Pool, pools_of
from isthmus.planner.search.template import Job, Miss
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec
from isthmus.spec.suggest import nearest

MAX_SITES_JOINED = 3
"""Sites that one pipeline may pass."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Group:
    """Sites that train as one: a site by itself, or several with a pipeline over them."""

    sites: tuple[str, ...]
    """The first is the one that speaks to the parameter server."""
    packing: Packing

    @property
    def name(self) -> str:
        return " + ".join(self.sites)


@dataclass
class Survey:
    """A search over a fleet: what was found, and what was not."""

    job: Job
    pools: dict[str, list[Pool]]
    lines: dict[tuple[str, str], Line]
    packings: dict[tuple[str, ...], Packing] = field(default_factory=dict)
    misses: dict[tuple[str, ...], dict[str, Miss]] = field(default_factory=dict)

    def pack(self, sites: tuple[str, ...]) -> Packing | None:
        """Of one site, or of a pipeline over several; searched once."""
        if sites in self.packings or sites in self.misses:
            return self.packings.get(sites)
        found = self._search(sites)
        if isinstance(found, Packing):
            self.packings[sites] = found
            return found
        self.misses[sites] = found
        return None

    def _search(self, sites: tuple[str, ...]) -> Packing | dict[str, Miss]:
        if len(sites) == 1:
            runnable = self.job.convention is ISTHMUS
            return (pack_runnable if runnable else pack_site)(self.job, self.pools[sites[0]])
        pools = [pool for site in sites for pool in self.pools[site]]
        lines = [
            None if left.site == right.site else self.lines[left.site, right.site]
            for left, right in itertools.pairwise(pools)
        ]
        return pack_sites(self.job, pools, lines)


def survey(
    fleet: FleetSpec, run: RunSpec, profiles: Mapping[str, Profile] | None = None, runnable: bool = False
) -> Survey:
    """Nothing is searched yet. Raises InputError for an unknown chip or site."""
    wanted = run.goal.sites or sorted(fleet.sites)
    for name in wanted:
        if name not in fleet.sites:
            hint = nearest(name, fleet.sites) or f"the fleet has {', '.join(fleet.sites)}"
            raise InputError(f"there is no site '{name}'", where="goal.sites", hint=hint)
    pools = {site: pools_of(fleet, site, profiles) for site in sorted(wanted)}
    job = Job(run, {}, ISTHMUS if runnable else MEGATRON)
    every = [pool for each in pools.values() for pool in each]
    factors = {pool.chip.name: factors_for(pool, job.precision(pool)) for pool in every}
    job = Job(run, factors, job.convention)
    lines = {(a, b): _line(fleet, a, b) for a, b in itertools.permutations(pools, 2)}
    return Survey(job, pools, lines)


def _line(fleet: FleetSpec, left: str, right: str) -> Line:
    """Through both sites' own links."""
    ends = [shared_link(fleet, site) for site in (left, right)]
    rate = min(link.bandwidth.bytes_per_s for link in ends)
    return Line(rate, sum(link.delay for link in ends) / 2)


def best_groups(found: Survey) -> list[Group]:
    """The groups with the most tokens/s, each training on the whole batch; empty if nothing fits anywhere.

    A site that can hold the model trains by itself: it needs no other one's line for each micro-batch.
    Pipelines over sites are searched for sites that cannot, with those that are near enough.
    """
    alone = {site: packing for site in found.pools if (packing := found.pack((site,))) is not None}
    small = [site for site in found.pools if site not in alone]
    choices = [[Group((site,), packing) for site, packing in alone.items()]]
    if found.job.convention is not ISTHMUS:
        choices += list(_joined(found, alone, small))
    return max(choices, key=lambda groups: (rate(groups), -len(groups)))


def _joined(found: Survey, alone: Mapping[str, Packing], small: Sequence[str]) -> Iterator[list[Group]]:
    """Ways in which small sites share a pipeline, among each other or with one that could do without."""
    for size in range(2, MAX_SITES_JOINED + 1):
        for sites in itertools.permutations(found.pools, size):
            if not small or not set(sites) & set(small):
                continue
            packing = found.pack(sites)
            if packing is not None:
                rest = [Group((site,), each) for site, each in alone.items() if site not in sites]
                yield [Group(sites, packing), *rest]


def rate(groups: Sequence[Group]) -> float:
    """Steps per second of all groups together."""
    return sum(1 / group.packing.step_s for group in groups)


def budget_s(run: RunSpec, groups: Sequence[Group]) -> float:
    """Seconds to the run's budget of tokens."""
    tokens = run.train.batch_size * run.data.seq_len
    return run.train.tokens / tokens / rate(groups) if groups else math.inf


def cost_of(run: RunSpec, groups: Sequence[Group]) -> float:
    """Of the whole budget, in the currency of the nodes' prices."""
    return budget_s(run, groups) / HOUR_S * sum(group.packing.price for group in groups)
