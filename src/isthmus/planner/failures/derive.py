"""(plan, fleet, run, assumptions) -> Job: what a replay needs and a plan does not say is assumed by name."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from isthmus.errors import InputError
from isthmus.planner.cost.convention import MOMENTS
from isthmus.planner.failures.assumptions import Assumptions, check_assumptions
from isthmus.planner.failures.job import Job, LineFaults, Mode, SiteJob, check_job
from isthmus.planner.make import require_made_for, require_sites
from isthmus.planner.plan import Plan, SitePlan
from isthmus.spec.fleet import FleetSpec, NodeSpec
from isthmus.spec.run import RunSpec
from isthmus.units import Bytes


def derive_job(
    plan: Plan,
    fleet: FleetSpec,
    run: RunSpec,
    *,
    assume: Assumptions | None = None,
    step_s: Mapping[str, float] | None = None,
    spares: Mapping[str, int] | None = None,
) -> Job:
    """The job that `plan` runs.

    Args:
        step_s: seconds of an inner step by site, needed where the plan expects none.
        spares: idle nodes by site, besides those that the plan leaves unused.

    Raises InputError without a step time, for a plan of sites that the fleet does not have or of another run,
    and for assumptions that cannot be.
    """
    assume, step_s, spares = assume or Assumptions(), step_s or {}, spares or {}
    check_assumptions(assume)
    require_made_for(plan, run)
    require_sites(plan, fleet)
    _refuse_strangers(plan, [*step_s, *spares])
    mode, state_bytes = _mode(plan), checkpoint_bytes(plan, run)
    sites = []
    for site in plan.sites:
        nodes, unused = _nodes(site, fleet)
        replica = _replica_nodes(site, nodes, assume)
        part_s = state_bytes / replica / assume.write.bytes_per_s
        sites.append(
            SiteJob(
                name=site.name,
                nodes=sum(node.count for node in nodes),
                spares=unused + spares.get(site.name, 0),
                mtbf_s=_mtbf_s(nodes, assume),
                step_s=_step_s(plan, site, step_s),
                step_tokens=plan.batch_size * run.data.seq_len,
                replica_nodes=replica,
                detect_s=assume.detect,
                restart_s=assume.restart,
                read_s=part_s,
                repair_s=assume.repair,
                checkpoint_pause_s=state_bytes / replica / assume.copy.bytes_per_s,
                checkpoint_durable_s=part_s,
                line=_line(site, mode, plan, assume),
            )
        )
    job = Job(
        sites=sites,
        mode=mode,
        checkpoint_every_s=run.train.checkpoint_every,
        inner_steps=plan.inner_steps,
        overlap_s=_overlap_s(plan, sites),
        server_mtbf_s=0.0 if mode == "none" else assume.server_mtbf,
        takeover_s=assume.takeover,
        reserve_s=run.outer.outage_reserve if mode == "elastic" else 0.0,
    )
    check_job(job)
    return job


def checkpoint_bytes(plan: Plan, run: RunSpec) -> Bytes:
    """Of the whole model and its optimizer's moments, all in fp32."""
    return Bytes(4 * plan.num_params * (1 + MOMENTS[run.train.optimizer]))


def _refuse_strangers(plan: Plan, named: Sequence[str]) -> None:
    planned = [site.name for site in plan.sites]
    for name in named:
        if name not in planned:
            hint = f"the plan has {', '.join(planned)}"
            raise InputError(f"there is no site '{name}'", where=name, hint=hint)


def _mode(plan: Plan) -> Mode:
    if len(plan.sites) == 1:
        return "none"
    return "strict" if plan.mode == "strict" else "elastic"


def _nodes(site: SitePlan, fleet: FleetSpec) -> tuple[list[NodeSpec], int]:
    """Nodes that the plan's ranks fill, and how many it leaves unused: those are spares. A pipeline over
    sites stops as one, so that all its nodes count alike."""
    left, used, unused = Counter(site.chips), [], 0
    for node in (node for place in site.places for node in fleet.sites[place].nodes):
        wanted = max((math.ceil(left[chip] / count) for chip, count in node.chips.items()), default=0)
        taken = min(node.count, wanted)
        left -= Counter({chip: taken * count for chip, count in node.chips.items()})
        unused += node.count - taken
        if taken:
            used.append(msgspec.structs.replace(node, count=taken))
    if left.total() or not used:
        hint = "give the fleet that the plan was made for"
        raise InputError(f"the plan has chips that site '{site.name}' lacks", where="plan", hint=hint)
    return used, unused


def _mtbf_s(nodes: Sequence[NodeSpec], assume: Assumptions) -> float:
    """Harmonic mean: failure rates add up."""
    means = [(node.count, node.mtbf or assume.mtbf) for node in nodes]
    return sum(count for count, _ in means) / sum(count / mean for count, mean in means)


def _replica_nodes(site: SitePlan, nodes: Sequence[NodeSpec], assume: Assumptions) -> int:
    if not site.pipelines:
        return assume.replica
    per_node = max(sum(node.chips.values()) for node in nodes)
    return max(math.ceil(line.chips_per_replica / per_node) for line in site.pipelines)


def _step_s(plan: Plan, site: SitePlan, step_s: Mapping[str, float]) -> float:
    known = step_s.get(site.name) or site.step_s
    if known is None:
        hint = "measure it (`isthmus status` of a run) and give it, for example --step-s 2.5"
        raise InputError(f"the plan does not say how long a step takes at site '{site.name}'", hint=hint)
    return known


def _line(site: SitePlan, mode: Mode, plan: Plan, assume: Assumptions) -> LineFaults:
    """Between windows the plan's transfer. A pipeline over sites: what its step spends on the line."""
    of_step = plan.expected.parts.get("long lines", 0.0) if plan.expected else 0.0
    return LineFaults(
        transfer_s=of_step if mode == "none" else site.transfer_s,
        slow_per_day=assume.slow_per_day,
        slow_s=assume.slow,
        slow_factor=assume.slow_factor,
    )


def _overlap_s(plan: Plan, sites: Sequence[SiteJob]) -> float | None:
    """Results are due `delay` steps after their push. -1: when they are there; strict: as the link asks, at
    most a window."""
    if plan.mode == "elastic" and plan.delay < 0:
        return None
    fastest_s = min(site.step_s for site in sites)
    return (plan.delay if plan.delay >= 0 else plan.inner_steps) * fastest_s
