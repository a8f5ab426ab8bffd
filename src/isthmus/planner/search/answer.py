"""The answer to "what is the best plan?": a Plan with expectation and reasons, or why there is none."""

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from isthmus.errors import InfeasibleError
from isthmus.planner.cost.convention import ISTHMUS
from isthmus.planner.layout import Layout
from isthmus.planner.make import make_plan
from isthmus.planner.plan import Considered, Expected, PipelinePlan, Plan, StagePlan
from isthmus.planner.probed.profile import Profile
from isthmus.planner.search.fleet import Group, Survey, rate, survey
from isthmus.planner.search.goal import choose
from isthmus.planner.search.join import join_sites
from isthmus.planner.search.judge import lost_to, parts_of, simulated_s, spread
from isthmus.planner.search.probed import probed_plan, site_profiles
from isthmus.planner.search.remedy import remedies
from isthmus.planner.search.template import Job, Template, stage_costs
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec

MOST_CONSIDERED = 14


def best_plan(
    fleet: FleetSpec,
    run: RunSpec,
    profiles: Mapping[str, Profile] | None = None,
    runnable: bool = False,
) -> Plan:
    """The plan that is best by `run.goal`, for `isthmus train` as it is today if `runnable`.

    `profiles`: what `isthmus probe` measured, by the chip's name in the fleet; where every site's chips were
    probed with this model, a runnable plan rests on that alone. Pure and deterministic.
    Raises InputError for chips and sites that are not known, InfeasibleError with the smallest changes that
    would help where nothing fits the memory or the limits of the goal.
    """
    known = site_profiles(fleet, run, profiles or {}) if runnable else None
    if known is not None:
        return probed_plan(fleet, run, known)
    found = survey(fleet, run, profiles, runnable)
    groups = choose(found)
    if not groups:
        raise InfeasibleError(
            "the model fits no site, and no pipeline over the sites",
            where="plan",
            hint="; or ".join(remedies(found)),
        )
    return plan_of(found, fleet, groups)


def plan_of(found: Survey, fleet: FleetSpec, groups: Sequence[Group]) -> Plan:
    """The groups joined to one run. Sites whose link hides behind no number of inner steps are left out."""
    run = found.job.run
    heads = {group.sites[0]: group for group in groups}
    step_s = {head: group.packing.step_s for head, group in heads.items()}
    steps = run.train.tokens // (run.train.batch_size * run.data.seq_len) // len(heads)
    joined = join_sites(fleet, run.outer, step_s, count_params(run.model), steps)
    kept = {head: group for head, group in heads.items() if head not in joined.left_out}
    outer = replace(
        run.outer, inner_steps=joined.inner_steps, codec=joined.codec, down_codec=joined.down_codec
    )
    plan = make_plan(
        _part_of(fleet, kept),
        replace(run, outer=outer),
        {head: step_s[head] for head in kept},
        {head: pipelines_of(found.job, group) for head, group in kept.items()},
    )
    absent = [site for site in found.pools if site not in {name for each in groups for name in each.sites}]
    reasons = [*joined.reasons, *(f"site {name} left out: {why}" for name, why in joined.left_out.items())]
    reasons += [f"site {site} left out: {_why_absent(found, site)}" for site in absent]
    return replace(
        plan,
        reasons=[*_why_groups(found, list(kept.values())), *reasons, *plan.reasons],
        expected=expected_of(found.job, list(kept.values())),
        considered=considered_of(list(kept.values())),
    )


def _part_of(fleet: FleetSpec, sites: Collection[str]) -> FleetSpec:
    trunks = {
        name: replace(trunk, sites=[site for site in trunk.sites if site in sites])
        for name, trunk in fleet.trunks.items()
        if set(trunk.sites) & set(sites)
    }
    return replace(fleet, sites={site: fleet.sites[site] for site in sites}, trunks=trunks)


def pipelines_of(job: Job, group: Group) -> list[PipelinePlan]:
    return [
        PipelinePlan(layout=_told_layout(template), stages=_stages(job, template))
        for template in group.packing.templates
    ]


def _told_layout(template: Template) -> Layout:
    layout = template.layout
    return replace(layout, recompute="full") if template.split.recompute_S.any() else layout


def _stages(job: Job, template: Template) -> list[StagePlan]:
    split, costs = template.split, stage_costs(job, template.segments, template.layout, template.split)
    last = len(costs) - 1
    return [
        StagePlan(
            site=segment.pool.site,
            chip=segment.pool.name,
            tp=segment.tp,
            first_layer=chunks[0][0],
            end_layer=chunks[-1][1],
            chunks=chunks if len(chunks) > 1 else [],
            embedding=stage == 0,
            head=stage == last,
            recompute_layers=int(split.recompute_S[stage]) * split.virtual,
            memory_bytes=int(split.memory_S[stage]),
            memory_limit=template.limits[stage],
            forward_s=costs[stage].forward_s,
            backward_s=costs[stage].backward_s,
        )
        for stage, (segment, chunks) in enumerate(zip(template.stage_segments(), split.chunks(), strict=True))
    ]


def expected_of(job: Job, groups: Sequence[Group]) -> Expected:
    """Of all groups beside each other. Parts and spread are those of the slowest template."""
    slowest = max(
        (each for group in groups for each in group.packing.templates), key=lambda each: each.step_s
    )
    step_s = len(groups) / rate(groups)
    parts = parts_of(job, slowest)
    scale = step_s / sum(parts.values())
    low, high = spread(job, slowest)
    bound_s = len(groups) / sum(1 / group.packing.bound_s for group in groups)
    sequences = job.run.train.batch_size * job.run.data.seq_len
    return Expected(
        step_s=step_s,
        low_s=low * step_s,
        high_s=high * step_s,
        simulated_s=step_s * simulated_s(job, slowest) / slowest.step_s,
        tokens_per_s=sequences * rate(groups),
        bound_s=bound_s,
        gap=max(0.0, 1 - bound_s / step_s),
        parts={name: seconds * scale for name, seconds in parts.items()},
    )


def considered_of(groups: Sequence[Group]) -> list[Considered]:
    """The table of reasons: of each group the chosen plan, the next best families, and what did not fit."""
    rows: list[Considered] = []
    for group in groups:
        chosen = group.packing.templates[0]
        place = f"{group.name}: " if len(groups) > 1 else ""
        ran = [(name, each) for name, each in group.packing.groups.items() if isinstance(each, Template)]
        ran.sort(key=lambda item: item[1].step_s)
        missed = [
            (name, each) for name, each in group.packing.groups.items() if not isinstance(each, Template)
        ]
        share = max(4, MOST_CONSIDERED // len(groups))
        for name, template in ran[: share // 2 + 1]:
            is_chosen = any(_same_family(template, each) for each in group.packing.templates)
            why = "" if is_chosen else lost_to(template, chosen)
            rows.append(Considered(name=place + name, step_s=template.step_s, chosen=is_chosen, why=why))
        rows += [Considered(name=place + name, why=str(miss)) for name, miss in missed[: share // 2 - 1]]
    return rows


def _same_family(left: Template, right: Template) -> bool:
    same = [(each.pool.key, each.tp, each.stages) for each in left.segments]
    return same == [(each.pool.key, each.tp, each.stages) for each in right.segments] and (
        left.layout.ep == right.layout.ep
    )


def _why_groups(found: Survey, groups: Sequence[Group]) -> list[str]:
    lines: list[str] = []
    for group in groups:
        packing = group.packing
        idle = sum(pool.num_chips for site in group.sites for pool in found.pools[site]) - packing.num_chips
        text = f"{group.name}: {packing.num_chips} chips"
        lines.append(text + (f", {idle} idle" if idle > 0 else ""))
    if len(groups) > 1:
        lines.append("sites train beside each other, joined by the parameter server")
    if found.job.convention is ISTHMUS:
        lines.append("only what `isthmus train` runs today: the whole model on each rank")
    return lines


def _why_absent(found: Survey, site: str) -> str:
    misses = found.misses.get((site,))
    if misses:
        return str(min(misses.values(), key=lambda miss: miss.shortfall.extra_bytes))
    return "the goal is met without it"
