"""Tokens/s of sites that are joined by a parameter server, from each site's own profile."""

from collections.abc import Mapping

import msgspec

from isthmus.planner.make import make_plan
from isthmus.planner.plan import Plan, SitePlan
from isthmus.planner.probed.predict import StepEstimate, predict_step
from isthmus.planner.probed.profile import Profile, fingerprint
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec


class JoinedEstimate(msgspec.Struct, frozen=True, kw_only=True):
    plan: Plan
    """Made with the step times: its shares and delay follow from them."""
    steps: dict[str, StepEstimate]
    """By site."""
    tokens_per_s: float
    """Of the whole run."""
    push_s: dict[str, float]
    """What each push, with the version after it, costs a site's ranks, by site."""
    waits_s: dict[str, float]
    """What a site waits in each window for transfers and for other sites; elastic: never."""


def predict_joined(fleet: FleetSpec, run: RunSpec, profiles: Mapping[str, Profile]) -> JoinedEstimate:
    """A profile for each site, taken as its ranks will run: under the same CPU limits, beside the others."""
    first = make_plan(fleet, run)
    steps = {site.name: predict_step(run, site, profiles[site.name]) for site in first.sites}
    plan = make_plan(fleet, run, {name: step.step_s for name, step in steps.items()})
    push_s = {site.name: push_cost_s(run, site, profiles[site.name]) for site in plan.sites}
    windows = _strict(plan, steps, push_s) if plan.mode == "strict" else _elastic(plan, steps, push_s)
    tokens = {name: count * plan.batch_size * run.data.seq_len for name, (count, _) in windows.items()}
    rate = sum(tokens[name] / window_s for name, (_, window_s) in windows.items())
    waits_s = {
        name: window_s - count * steps[name].step_s - push_s[name]
        for name, (count, window_s) in windows.items()
    }
    return JoinedEstimate(plan=plan, steps=steps, tokens_per_s=rate, push_s=push_s, waits_s=waits_s)


def push_cost_s(run: RunSpec, site: SitePlan, profile: Profile) -> float:
    """Seconds by which a push and the version after it hold up the site: copies by rank 0, and a broadcast.

    On a CPU whose cores are all taken by ranks, the client's coding holds them up besides.
    """
    found = [b for b in profile.blocks if b.block == "push" and b.model == fingerprint(run.model)]
    if not found:
        return 0.0
    part = count_params(run.model) / found[0].params
    coding_s = found[0].backward_s if profile.threads else 0.0
    rates = [rate for rate in profile.collectives if rate.kind == "broadcast"]
    told_s = 0.0
    if site.num_ranks > 1 and rates:
        rate = min(rates, key=lambda each: abs(each.ranks - site.num_ranks))
        told_s = rate.seconds(4 * count_params(run.model))
    return part * (found[0].forward_s + coding_s) + told_s


Windows = dict[str, tuple[float, float]]
"""By site: (inner steps, seconds) from one push to the next."""


def _elastic(plan: Plan, steps: Mapping[str, StepEstimate], push_s: Mapping[str, float]) -> Windows:
    """All sites push after the time that the fastest takes for H steps, or as often as their link lets them:
    the next push waits until the last one has its result, training does not.
    """
    window_s = plan.inner_steps * min(step.step_s for step in steps.values())
    found: Windows = {}
    for site in plan.sites:
        step_s = steps[site.name].step_s
        count = max(1.0, max(window_s, site.transfer_s) / step_s)
        found[site.name] = count, count * step_s + push_s[site.name]
    return found


def _strict(plan: Plan, steps: Mapping[str, StepEstimate], push_s: Mapping[str, float]) -> Windows:
    """A round is H steps of the slowest site, and what `delay` steps do not hide of its transfer."""
    rounds: list[float] = []
    for site in plan.sites:
        step_s = steps[site.name].step_s
        hidden_s = max(0, plan.delay) * step_s
        rounds.append(plan.inner_steps * step_s + push_s[site.name] + max(0.0, site.transfer_s - hidden_s))
    return {site.name: (float(plan.inner_steps), max(rounds)) for site in plan.sites}
