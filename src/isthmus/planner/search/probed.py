"""The plan of a run whose model was probed on the machines that train it: sums of what was measured."""

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from isthmus.planner.make import make_plan
from isthmus.planner.plan import Considered, Expected, Plan
from isthmus.planner.probed.joined import JoinedEstimate, predict_joined
from isthmus.planner.probed.profile import Profile, fingerprint
from isthmus.planner.search.join import join_sites
from isthmus.spec.count import count_params
from isthmus.spec.fleet import FleetSpec, SiteSpec
from isthmus.spec.run import RunSpec


def site_profiles(
    fleet: FleetSpec, run: RunSpec, profiles: Mapping[str, Profile]
) -> dict[str, Profile] | None:
    """A profile for each site, None unless every site has chips of one kind on which this model's blocks were
    timed."""
    found: dict[str, Profile] = {}
    for name, site in fleet.sites.items():
        chips = {chip for node in site.nodes for chip in node.chips}
        profile = profiles.get(chips.pop()) if len(chips) == 1 else None
        if profile is None or not _knows(profile, run) or _is_slowed(site):
            return None
        found[name] = profile
    return found


def _knows(profile: Profile, run: RunSpec) -> bool:
    model = fingerprint(run.model)
    return any(block.model == model and block.seq_len == run.data.seq_len for block in profile.blocks)


def _is_slowed(site: SiteSpec) -> bool:
    return any(node.speed != 1 for node in site.nodes)


def probed_plan(fleet: FleetSpec, run: RunSpec, profiles: Mapping[str, Profile]) -> Plan:
    """With the micro-batch that is predicted to give most tokens/s. `profiles`: of `site_profiles`.

    Raises InfeasibleError where the batch cannot be shared evenly by a site's ranks.
    """
    run = _joined(fleet, run, profiles)
    tried = {
        each.train.micro_batch_size: predict_joined(fleet, each, profiles)
        for each in _micro_batches(fleet, run)
    }
    best = max(tried, key=lambda size: tried[size].tokens_per_s)
    joined = tried[best]
    considered = [
        Considered(
            name=f"micro-batch {size}" if size else "whole share at once",
            step_s=_step_s(each, run),
            slower=joined.tokens_per_s / each.tokens_per_s - 1,
            chosen=size == best,
            why="" if size == best else f"{1 - each.tokens_per_s / joined.tokens_per_s:.1%} fewer tokens/s",
        )
        for size, each in tried.items()
    ]
    return replace(joined.plan, expected=_expected(joined, run), considered=considered)


def _joined(fleet: FleetSpec, run: RunSpec, profiles: Mapping[str, Profile]) -> RunSpec:
    """With H and codec for these sites' steps and links, where the run leaves them open."""
    steps = predict_joined(fleet, run, profiles).steps
    budget = run.train.tokens // (run.train.batch_size * run.data.seq_len) // len(steps)
    step_s = {site: step.step_s for site, step in steps.items()}
    chosen = join_sites(fleet, run.outer, step_s, count_params(run.model), budget)
    outer = replace(
        run.outer, inner_steps=chosen.inner_steps, codec=chosen.codec, down_codec=chosen.down_codec
    )
    return replace(run, outer=outer)


def _micro_batches(fleet: FleetSpec, run: RunSpec) -> Iterator[RunSpec]:
    """Sizes that divide every rank's share; the run's own, if it names one."""
    sites = make_plan(fleet, run).sites
    if run.train.micro_batch_size:
        yield run
        return
    for size in range(1, min(site.rank_batch for site in sites) + 1):
        if all(site.rank_batch % size == 0 for site in sites):
            yield replace(run, train=replace(run.train, micro_batch_size=size))


def _step_s(joined: JoinedEstimate, run: RunSpec) -> float:
    """Of a batch at each site, averaged over the sites."""
    return len(joined.steps) * run.train.batch_size * run.data.seq_len / joined.tokens_per_s


def _expected(joined: JoinedEstimate, run: RunSpec) -> Expected:
    """Parts and spread are those of the slowest site; what is over is the outer loop's."""
    slowest = max(joined.steps.values(), key=lambda step: step.step_s)
    step_s = _step_s(joined, run)
    mean_s = len(joined.steps) / sum(1 / step.step_s for step in joined.steps.values())
    parts = {name: seconds * mean_s / slowest.step_s for name, seconds in slowest.parts.items()}
    return Expected(
        step_s=step_s,
        low_s=step_s * slowest.low_s / slowest.step_s,
        high_s=step_s * slowest.high_s / slowest.step_s,
        simulated_s=step_s,
        tokens_per_s=joined.tokens_per_s,
        bound_s=step_s,
        gap=0.0,
        parts=parts | {"outer loop": max(0.0, step_s - mean_s)},
    )
