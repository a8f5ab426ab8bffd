"""A plan from a file, as `isthmus train` runs it: checked against the fleet and the run that it is given."""

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.make import budget_samples, make_plan, refuse_impossible
from isthmus.planner.plan import Plan, SitePlan
from isthmus.planner.runnable import check_runnable
from isthmus.spec.count import count_active_params, count_params
from isthmus.spec.fleet import FleetSpec, SiteSpec
from isthmus.spec.run import RunSpec
from isthmus.spec.suggest import nearest

AGAIN = "make the plan anew with `isthmus plan --fleet FLEET --run RUN --runnable --out PLAN`"


def plan_for(fleet: FleetSpec, run: RunSpec, given: Plan | None = None) -> Plan:
    """What a run does: the plan that was given, if it is one of this run, or else what `make_plan` says.

    Raises InputError naming what differs, InfeasibleError naming what train cannot run.
    """
    return make_plan(fleet, run) if given is None else adopt(given, fleet, run)


def adopt(plan: Plan, fleet: FleetSpec, run: RunSpec) -> Plan:
    """The same plan, with each site's ranks in the order of the fleet's nodes, as launchers number them."""
    check_runnable(plan)
    refuse_impossible(fleet, run)
    for what, planned, wanted in _differences(plan, run):
        message = f"the plan was made for another {what}: {planned}, where the run has {wanted}"
        raise InputError(message, where="plan", hint=AGAIN)
    return replace(plan, sites=[_on_fleet(site, fleet, plan.batch_size) for site in plan.sites])


def left_out(plan: Plan, fleet: FleetSpec) -> list[str]:
    """Sites of the fleet that the plan does without."""
    return sorted(set(fleet.sites) - {site.name for site in plan.sites})


def _differences(plan: Plan, run: RunSpec) -> Iterator[tuple[str, object, object]]:
    """(what, of the plan, of the run). What the run leaves to a plan cannot differ."""
    outer = run.outer
    quorum = len(plan.sites) if outer.mode == "strict" else outer.quorum
    rows: list[tuple[str, object, object]] = [
        ("model (parameters)", plan.num_params, count_params(run.model)),
        ("model (active parameters)", plan.active_params, count_active_params(run.model)),
        ("data.seq_len", _seq_len(plan, run), run.data.seq_len),
        ("train.batch_size", plan.batch_size, run.train.batch_size),
        ("budget (sequences)", plan.total_samples, budget_samples(run)),
        ("outer.mode", plan.mode, outer.mode),
        ("outer.quorum", plan.quorum, quorum),
        ("outer.inner_steps", plan.inner_steps, outer.inner_steps or plan.inner_steps),
        ("outer.fragments", plan.fragments, outer.fragments or plan.fragments),
        ("outer.codec", plan.codec, _or(outer.codec, plan.codec)),
        ("outer.down_codec", plan.down_codec, _or(outer.down_codec, plan.down_codec)),
    ]
    yield from (row for row in rows if row[1] != row[2])


def _or(wanted: str, planned: str) -> str:
    return planned if wanted == "auto" else wanted


def _seq_len(plan: Plan, run: RunSpec) -> int:
    lengths = [pipeline.layout.seq_len for site in plan.sites for pipeline in site.pipelines]
    return lengths[0] if lengths else run.data.seq_len


def _on_fleet(site: SitePlan, fleet: FleetSpec, batch_size: int) -> SitePlan:
    if site.name not in fleet.sites:
        hint = nearest(site.name, fleet.sites) or f"the fleet has {', '.join(fleet.sites)}"
        raise InputError(f"the plan has a site '{site.name}', the fleet has not", where="plan", hint=hint)
    if site.rank_batch * site.num_ranks != batch_size or site.rank_batch % site.micro_batch:
        raise InputError(
            f"{site.num_ranks} ranks of {site.rank_batch} sequences, {site.micro_batch} at once, "
            f"are no batch of {batch_size}",
            where=f"site {site.name}",
            hint=AGAIN,
        )
    chips = _in_node_order(site.chips, fleet.sites[site.name])
    if chips is None:
        raise InputError(
            f"the plan runs on {_counted(site.chips)}, which the fleet's site does not have",
            where=f"site {site.name}",
            hint=AGAIN,
        )
    return replace(site, chips=chips)


def _in_node_order(wanted: Sequence[str], site: SiteSpec) -> list[str] | None:
    """As many chips of each kind, from the first node on; None if there are too few."""
    left = Counter(wanted)
    chips: list[str] = []
    for node in site.nodes:
        for _ in range(node.count):
            for chip, count in node.chips.items():
                taken = min(count, left[chip])
                chips += [chip] * taken
                left[chip] -= taken
    return None if left.total() else chips


def _counted(chips: Sequence[str]) -> str:
    return ", ".join(f"{count} {chip}" for chip, count in Counter(chips).items())
