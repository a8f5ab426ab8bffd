"""(fleet, run) -> Plan. Pure: the same files and measurements give the same plan."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from isthmus.errors import InfeasibleError, InputError
from isthmus.planner.link import derive_delay, derive_streams, payload_bytes, shared_link, transfer_s
from isthmus.planner.plan import PipelinePlan, Plan, SitePlan
from isthmus.spec.check import check_fleet, check_run
from isthmus.spec.count import count_active_params, count_params, param_shapes
from isthmus.spec.document import dotted
from isthmus.spec.fleet import FleetSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import USUAL_INNER_STEPS, Codec, CodecOrAuto, RunSpec
from isthmus.units import Bytes, Count, Seconds

MIN_FRAGMENTS = 8
"""For models large enough, however few layers they have."""
MIN_FRAGMENT_PARAMS = 2**20
"""One chunk of the transport in int8. Below this a fragment's fixed costs outweigh what sending it early
gains."""


Pipelines = Mapping[str, list[PipelinePlan]]
"""How the model lies on each site's chips; a site that is not named has all of it on each rank."""


def make_plan(
    fleet: FleetSpec,
    run: RunSpec,
    step_s: Mapping[str, float] | None = None,
    pipelines: Pipelines | None = None,
) -> Plan:
    """What a run of `run` on `fleet` does. `step_s`: measured or expected seconds of an inner step, by site.

    Raises InfeasibleError where the run does not fit the fleet, InputError where either is wrong in itself.
    """
    run = settle(run)
    refuse_impossible(fleet, run)
    outer, batch_size = run.outer, run.train.batch_size
    fragments, why_fragments = _fragments(run.model, outer.fragments)
    sites = [
        _plan_site(name, fleet, run, step_s or {}, (pipelines or {}).get(name, []))
        for name in sorted(fleet.sites)
    ]
    is_strict = outer.mode == "strict"
    return Plan(
        sites=sites,
        num_params=count_params(run.model),
        active_params=count_active_params(run.model),
        total_samples=budget_samples(run),
        batch_size=batch_size,
        fragments=fragments,
        codec=outer.codec,
        down_codec=outer.down_codec,
        mode=outer.mode,
        inner_steps=outer.inner_steps,
        delay=_delay(run, sites, step_s or {}),
        quorum=len(sites) if is_strict else outer.quorum,
        reasons=[why_fragments, *(_why_link(site, fleet.sites[site.name], run) for site in sites)],
        warnings=_warnings(sites, run),
    )


def budget_samples(run: RunSpec) -> int:
    """Sequences of the whole run, in whole steps."""
    batch_size = run.train.batch_size
    return run.train.tokens // run.data.seq_len // batch_size * batch_size


def settle(run: RunSpec) -> RunSpec:
    """The run with the usual values where it leaves the outer loop to be chosen."""
    outer = run.outer
    codec = one_codec(outer.codec, "int8")
    return replace(
        run,
        outer=replace(
            outer,
            inner_steps=outer.inner_steps or USUAL_INNER_STEPS,
            codec=codec,
            down_codec=one_codec(outer.down_codec, codec),
        ),
    )


def as_planned(run: RunSpec, plan: Plan) -> RunSpec:
    """The run with what the plan chose for its outer loop."""
    chosen: dict[str, Any] = {
        "inner_steps": plan.inner_steps,
        "codec": plan.codec,
        "down_codec": plan.down_codec,
    }
    return replace(run, outer=replace(run.outer, **chosen))


def require_made_for(plan: Plan, run: RunSpec) -> None:
    """Raises InputError where model, batch or sequences of the run are not the plan's."""
    lengths = [line.layout.seq_len for site in plan.sites for line in site.pipelines]
    pairs = [
        ("parameters", plan.num_params, count_params(run.model)),
        ("sequences in a batch", plan.batch_size, run.train.batch_size),
        ("tokens in a sequence", lengths[0] if lengths else run.data.seq_len, run.data.seq_len),
    ]
    for what, planned, wanted in pairs:
        if planned != wanted:
            raise InputError(
                f"it is for {planned:,} {what}; the run has {wanted:,}",
                where="plan",
                hint="give the run.yaml it was made for, or plan again",
            )


def require_sites(plan: Plan, fleet: FleetSpec) -> None:
    """Raises InputError for a site of the plan that the fleet lacks."""
    for name in dict.fromkeys(place for site in plan.sites for place in site.places):
        if name not in fleet.sites:
            hint = f"the fleet has {', '.join(fleet.sites)}; give the fleet that the plan was made for"
            raise InputError(f"the plan's site '{name}' is not in the fleet", where="plan", hint=hint)


def one_codec(wanted: CodecOrAuto, otherwise: Codec) -> Codec:
    return otherwise if wanted == "auto" else wanted


def _plan_site(
    name: str, fleet: FleetSpec, run: RunSpec, step_s: Mapping[str, float], pipelines: list[PipelinePlan]
) -> SitePlan:
    site, outer = fleet.sites[name], run.outer
    if pipelines:
        chips = [chip for pipeline in pipelines for chip in pipeline.ranks]
        layout = max((pipeline.layout for pipeline in pipelines), key=lambda layout: layout.replica_batch)
        rank_batch, micro_batch = layout.replica_batch, layout.micro_batch
    else:
        chips = [chip for node in site.nodes for _ in range(node.count) for chip in _ranks_of(node.chips)]
        rank_batch, micro_batch = _rank_batches(name, len(chips), run)
    num_params = count_params(run.model)
    bytes_up = payload_bytes(outer.codec, num_params, outer.block_size)
    bytes_down = payload_bytes(outer.down_codec, num_params, outer.block_size)
    on_link_s = transfer_s(shared_link(fleet, name), bytes_up, bytes_down)
    return SitePlan(
        name=name,
        chips=chips,
        rank_batch=rank_batch,
        micro_batch=micro_batch,
        share=_share(name, fleet, outer.mode == "strict", step_s),
        streams=outer.streams or derive_streams(site.link),
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        transfer_s=on_link_s,
        hidden=on_link_s <= outer.inner_steps * step_s[name] if name in step_s else None,
        step_s=step_s.get(name),
        pipelines=pipelines,
    )


def _ranks_of(chips: Mapping[str, int]) -> list[str]:
    return [chip for chip, count in chips.items() for _ in range(count)]


def _rank_batches(site: str, num_ranks: int, run: RunSpec) -> tuple[int, int]:
    """Sequences of a rank in a step, and in a micro-batch."""
    rank_batch = share_evenly(site, num_ranks, run.train.batch_size)
    micro_batch = run.train.micro_batch_size or rank_batch
    if rank_batch % micro_batch == 0:
        return rank_batch, micro_batch
    raise InfeasibleError(
        f"micro-batches of {micro_batch} do not fill a rank's {rank_batch} sequences",
        where=f"site {site}",
        hint="set train.micro_batch_size to a divisor, or to 0",
    )


def share_evenly(site: str, num_ranks: int, batch_size: int) -> int:
    """Sequences of each rank. Raises InfeasibleError where they do not divide."""
    if batch_size % num_ranks == 0:
        return batch_size // num_ranks
    near = max(1, round(batch_size / num_ranks)) * num_ranks
    raise InfeasibleError(
        f"{batch_size} sequences cannot be shared evenly by {num_ranks} ranks",
        where=f"site {site}",
        hint=f"set train.batch_size to a multiple of {num_ranks}, such as {near}",
    )


def _share(name: str, fleet: FleetSpec, is_strict: bool, step_s: Mapping[str, float]) -> float:
    """Strict: equal parts. Elastic: by measured speed, or by ranks while nothing is measured."""
    if is_strict:
        return 1 / len(fleet.sites)
    is_measured = all(each in step_s for each in fleet.sites)
    rates = {each: 1 / step_s[each] if is_measured else site.num_ranks for each, site in fleet.sites.items()}
    return rates[name] / sum(rates.values())


def _fragments(model: ModelSpec, wanted: int) -> tuple[int, str]:
    """How many, and why: one per layer and the embedding, fewer where they would be too small."""
    num_tensors = sum(1 for _ in param_shapes(model))
    if wanted > num_tensors:
        raise InfeasibleError(
            f"{wanted} fragments, but the model has only {num_tensors} tensors",
            where="outer.fragments",
            hint="use 0 to have it chosen",
        )
    if wanted:
        return wanted, f"{wanted} fragments: as outer.fragments says"
    most, worthwhile = max(MIN_FRAGMENTS, model.num_layers + 1), count_params(model) // MIN_FRAGMENT_PARAMS
    if worthwhile < most:
        fragments = max(1, worthwhile)
        return fragments, f"{fragments} fragments: no smaller than {Count(MIN_FRAGMENT_PARAMS)} parameters"
    return most, f"{most} fragments: about one per layer"


def _delay(run: RunSpec, sites: list[SitePlan], step_s: Mapping[str, float]) -> int:
    is_measured = all(site.name in step_s for site in sites)
    if run.outer.delay >= 0 or run.outer.mode == "elastic" or not is_measured:
        return run.outer.delay
    delays = (derive_delay(site.transfer_s, step_s[site.name], run.outer.inner_steps) for site in sites)
    return max(delays)


def _why_link(site: SitePlan, spec: SiteSpec, run: RunSpec) -> str:
    """The link in one line, with the step time from which on its use is hidden behind compute."""
    step = Seconds(site.transfer_s / run.outer.inner_steps)
    return (
        f"site {site.name}: {Bytes(site.bytes_up)} up and {Bytes(site.bytes_down)} down per push take "
        f"{Seconds(site.transfer_s)} on {spec.link.bandwidth}, {spec.link.delay}; "
        f"hidden while {run.outer.inner_steps} inner steps take {step} or more each"
    )


def _warnings(sites: list[SitePlan], run: RunSpec) -> list[str]:
    outer = run.outer
    warnings = []
    windows = run.train.tokens / (run.train.batch_size * run.data.seq_len * outer.inner_steps * len(sites))
    if len(sites) > 1 and windows < 1:
        warnings.append(
            f"the budget ends after {windows:.0%} of a window, so the sites hardly learn from each other; "
            "lower outer.inner_steps or raise train.tokens"
        )
    cost = "each push waits for it" if outer.mode == "strict" else "pushes will come less often"
    for site in sites:
        if site.hidden is False:
            warnings.append(
                f"site {site.name}: {Seconds(site.transfer_s)} on the link are longer than "
                f"{outer.inner_steps} inner steps, so {cost}; raise outer.inner_steps or use codec int4"
            )
    return warnings


def refuse_impossible(fleet: FleetSpec, run: RunSpec) -> None:
    """Raises InputError where either is wrong in itself, InfeasibleError where no quorum comes together.

    Specs made in code have not been through the loader, so its checks are made here as well.
    """
    for problem in (*check_fleet(fleet), *check_run(run)):
        raise InputError(problem.message, where=dotted(problem.key), hint=problem.hint)
    if run.outer.quorum > len(fleet.sites):
        raise InfeasibleError(
            f"a quorum of {run.outer.quorum} cannot be reached by {len(fleet.sites)} site(s)",
            where="outer.quorum",
            hint=f"at most {len(fleet.sites)}, or add sites",
        )
