"""All that is known when an event is answered: the fleet before and after, and what it does to whom."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.failures.assumptions import Assumptions, check_assumptions
from isthmus.planner.make import as_planned, require_made_for, require_sites
from isthmus.planner.plan import Plan
from isthmus.planner.probed.profile import Profile
from isthmus.planner.replan.band import Band, Lines, Pools, bands_of, nodes_used
from isthmus.planner.replan.event import Back, Event, Lost, LostSite, Slow, apply, chip_of, lasting
from isthmus.planner.replan.harm import Damage
from isthmus.planner.search.fleet import Survey, survey
from isthmus.planner.search.template import Job
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec


@dataclass(frozen=True)
class Situation:
    """`head`: the site of a group that speaks to the parameter server."""

    plan: Plan
    run: RunSpec
    events: tuple[Event, ...]
    fleet: FleetSpec
    after: FleetSpec
    """The fleet with the event."""
    job: Job
    found: Survey
    """Of the fleet after, with the outer loop as the plan has it."""
    old_lines: Lines
    """Between sites, before the event."""
    before: Mapping[str, list[Band]]
    """What each group runs."""
    groups: Mapping[str, tuple[str, ...]]
    """Head -> its sites."""
    damages: Mapping[str, list[Damage]]
    """Head -> what hit it."""
    spares: Mapping[tuple[str, str], int]
    """(site, chip) -> idle nodes before the event."""
    gone: Mapping[str, float]
    """Head -> seconds until its lost site is back."""
    back: tuple[str, ...]
    """Sites that can be used (more) from now on."""
    ends_s: float
    """When the event's state ends; 0: not known."""
    repair_s: float
    assume: Assumptions

    @property
    def lines(self) -> Lines:
        return self.found.lines

    @property
    def pools(self) -> Pools:
        return self.found.pools

    @property
    def hurt(self) -> list[str]:
        """Heads whose chips are concerned and still there, in order."""
        named = [head for head in self.groups if self.damages.get(head)]
        grown = [head for head, sites in self.groups.items() if set(sites) & set(self.back)]
        return [each for each in dict.fromkeys([*named, *grown]) if each not in self.gone]


def situate(
    plan: Plan,
    fleet: FleetSpec,
    run: RunSpec,
    events: Sequence[Event],
    assume: Assumptions | None = None,
    profiles: Mapping[str, Profile] | None = None,
) -> Situation:
    """Raises InputError where plan, run, fleet and events do not go together."""
    if not events:
        raise InputError("no event", where="event", hint="for example: slow site=west nodes=1 speed=0.5")
    assume = assume or Assumptions()
    check_assumptions(assume)
    require_made_for(plan, run)
    require_sites(plan, fleet)
    planned = as_planned(run, plan)
    old = survey(fleet, _without_limits(planned, fleet), profiles)
    after = fleet
    damages: dict[str, list[Damage]] = {}
    groups = {site.name: tuple(site.places) for site in plan.sites}
    heads = {site: head for head, sites in groups.items() for site in sites}
    gone: dict[str, float] = {}
    for event in events:
        if isinstance(event, Slow | Lost) and event.site in after.sites and event.site in heads:
            damages.setdefault(heads[event.site], []).append(_damage(event, after))
        after = apply(event, after)
        site = event.site if isinstance(event, Lost | LostSite) else ""
        if site in heads and site not in after.sites:
            gone[heads[site]] = getattr(event, "lasts", 0.0) or assume.repair
    new = survey(after, _without_limits(planned, after), profiles)
    before = {site.name: bands_of(old.job, site, old.pools) for site in plan.sites}
    return Situation(
        plan=plan,
        run=run,
        events=tuple(events),
        fleet=fleet,
        after=after,
        job=old.job,
        found=Survey(old.job, new.pools, new.lines),
        old_lines=old.lines,
        before=before,
        groups=groups,
        damages=damages,
        spares=_spares(old, [band for bands in before.values() for band in bands]),
        gone=gone,
        back=tuple(event.site for event in events if isinstance(event, Back)),
        ends_s=lasting(events),
        repair_s=min([e.lasts for e in events if isinstance(e, Lost) and e.lasts], default=assume.repair),
        assume=assume,
    )


def with_run(situation: Situation, run: RunSpec) -> Survey:
    """The fleet after the event, nothing searched, with another outer loop."""
    job = dataclasses.replace(situation.job, run=_without_limits(run, situation.after))
    return Survey(job, situation.found.pools, situation.found.lines)


def _without_limits(run: RunSpec, fleet: FleetSpec) -> RunSpec:
    """A goal may name a site that is gone."""
    return replace(
        run, goal=replace(run.goal, sites=[site for site in run.goal.sites if site in fleet.sites])
    )


def _damage(event: Slow | Lost, fleet: FleetSpec) -> Damage:
    chip = chip_of(event, fleet.sites[event.site])
    if isinstance(event, Lost):
        return Damage(event.site, chip, event.nodes, 0.0)
    return Damage(event.site, chip, event.nodes, event.speed, event.stage)


def _spares(old: Survey, bands: Sequence[Band]) -> dict[tuple[str, str], int]:
    places = [((pool.site, pool.name), pool.nodes) for pools in old.pools.values() for pool in pools]
    there: dict[tuple[str, str], int] = {}
    for place, nodes in places:
        there[place] = there.get(place, 0) + nodes
    return {place: nodes - nodes_used(bands, *place) for place, nodes in there.items()}
