"""The answer to "what is the best plan?": a Plan with expectation and reasons, or why there is none."""

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from isthmus.errors import InfeasibleError
from isthmus.planner.cost.convention import ISTHMUS
from isthmus.planner.layout import Layout
from isthmus.planner.make import make_plan, refuse_impossible, share_evenly
from isthmus.planner.plan import Expected, PipelinePlan, Plan, StagePlan
from isthmus.planner.probed.profile import Profile
from isthmus.planner.search.considered import considered_of
from isthmus.planner.search.fixed import check_fixed, check_fixed_runnable
from isthmus.planner.search.fleet import Group, Survey, rate, survey
from isthmus.planner.search.goal import choose
from isthmus.planner.search.join import join_sites
from isthmus.planner.search.judge import again_s, memory_of, parts_of, simulated_s, spread
from isthmus.planner.search.probed import probed_plan, site_profiles
from isthmus.planner.search.remedy import remedies
from isthmus.planner.search.template import Job, Template, stage_costs
from isthmus.planner.search.untried import untried
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec


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
    refuse_impossible(fleet, run)
    if runnable:
        check_fixed_runnable(run)
    known = site_profiles(fleet, run, profiles or {}) if runnable else None
    if known is not None:
        return probed_plan(fleet, run, known)
    found = survey(fleet, run, profiles, runnable)
    check_fixed(run, [pool for pools in found.pools.values() for pool in pools])
    groups = choose(found)
    if not groups and runnable:
        _refuse_uneven(found)
    if not groups:
        raise InfeasibleError(
            "the model fits no site, and no pipeline over the sites",
            where="plan",
            hint="; or ".join(remedies(found)),
        )
    return plan_of(found, fleet, groups)


def _refuse_uneven(found: Survey) -> None:
    """Raises InfeasibleError where ranks cannot share the batch."""
    for site, pools in found.pools.items():
        share_evenly(site, sum(pool.num_chips for pool in pools), found.job.batch)


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
        considered=considered_of(found, list(kept.values())),
        untried=untried(found, list(kept.values())),
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
        PipelinePlan(layout=_told_layout(template), stages=stages_of(job, template))
        for template in group.packing.templates
    ]


def _told_layout(template: Template) -> Layout:
    layout = template.layout
    return replace(layout, recompute="full") if template.split.recompute_S.any() else layout


def stages_of(job: Job, template: Template) -> list[StagePlan]:
    """With memory and seconds of each."""
    split, costs = template.split, stage_costs(job, template.segments, template.layout, template.split)
    held = memory_of(job, template)
    return [
        StagePlan(
            site=segment.pool.site,
            chip=segment.pool.name,
            tp=segment.tp,
            first_layer=chunks[0][0],
            end_layer=chunks[-1][1],
            chunks=chunks if len(chunks) > 1 else [],
            embedding=stage == 0,
            head=stage == len(costs) - 1,
            recompute_layers=int(split.recompute_S[stage]) * split.virtual,
            memory_bytes=int(split.memory_S[stage]),
            memory_limit=template.limits[stage],
            memory=held[stage],
            forward_s=costs[stage].forward_s,
            backward_s=costs[stage].backward_s,
            recompute_s=again_s(job, template, stage),
        )
        for stage, (segment, chunks) in enumerate(zip(template.stage_segments(), split.chunks(), strict=True))
    ]


def expected_of(job: Job, groups: Sequence[Group]) -> Expected:
    """Of all groups beside each other. Parts and spread are those of the slowest group's slowest template."""
    packing = max((group.packing for group in groups), key=lambda packing: packing.step_s)
    slowest = max(packing.templates, key=lambda each: each.step_s)
    step_s = len(groups) / rate(groups)
    parts = parts_of(job, slowest)
    if packing.step_s > slowest.step_s:
        parts["among unlike pipelines"] = packing.step_s - slowest.step_s
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
        price=sum(group.packing.price for group in groups),
    )


def _why_groups(found: Survey, groups: Sequence[Group]) -> list[str]:
    lines: list[str] = []
    for group in groups:
        packing = group.packing
        idle = sum(pool.num_chips for site in group.sites for pool in found.pools[site]) - packing.num_chips
        text = f"{group.name}: {packing.num_chips} chip{'s' * (packing.num_chips != 1)}"
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
