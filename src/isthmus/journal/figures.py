"""The numbers people ask for, derived from a RunView: for the terminal, the page, JSON and metrics."""

import msgspec

from isthmus.journal.effective import (
    TimeSpent,
    heard_until_s,
    run_goodput,
    site_goodput,
    time_spent,
    together,
)
from isthmus.journal.experts import LayerFigures, layer_figures
from isthmus.journal.incidents import Incident, Tally, length_s, total_s
from isthmus.journal.view import RunView, SiteView

SILENT_S = 60.0
"""A site of an unfinished run that has said nothing for this long is shown as silent."""


class IncidentFigures(Incident, frozen=True, kw_only=True):
    """An incident and how long its parts took; None: not over, or not known."""

    open: bool
    detect_s: float | None
    """From its beginning until it was found; the others from the part before."""
    diagnose_s: float | None
    regroup_s: float | None
    resume_s: float | None
    total_s: float | None


class RecoveryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Over all incidents, also those that are no longer listed."""

    incidents: int
    open: int
    by_class: dict[str, int]
    """Once they are diagnosed, or over: 'undiagnosed'."""
    lost_steps: int
    """Done a second time, as the heals told."""
    repeated_steps: int
    """Done a second time, as the steps' numbers tell."""
    recovery_s: float | None
    """Mean from the beginning of a fault until training went on; None before the first was over."""
    detect_s: float | None
    """Mean from the beginning until it was found."""
    last_recovery_s: float | None


class SiteFigures(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: str
    """'training', 'offline' (training on, link down), 'down' (a process died), 'silent', 'away', 'done'"""
    steps: int
    tokens: int
    loss: float
    held_out_loss: float
    tokens_per_s: float
    """From the beginning of its first step to the end of its last."""
    recent_tokens_per_s: float
    compute_tokens_per_s: float
    """Over its time in steps without waiting: what it would reach alone."""
    waiting_share: float
    """Of its time in steps."""
    inner_steps: int
    """Steps in a push on the average; 0 before the first."""
    pushes: int
    merged: int
    quarantined: int
    version: int
    bytes_up: int
    bytes_down: int
    rtt_s: float
    up_bps: float
    down_bps: float
    resent_chunks: int
    faults: int
    ettr: float | None
    """Effective training time ratio, see `journal.effective`; None before the first step."""
    goodput: float | None
    """Tokens that counted per second since its first step, over the median rate of its undisturbed steps."""
    time: TimeSpent
    recovery: RecoveryFigures
    experts: list[LayerFigures]
    """By MoE layer; empty for a dense model."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: str
    """'starting', 'running', or why it finished"""
    elapsed_s: float
    num_params: int
    tokens: int
    """Merged into a version; in a run without a server, trained."""
    token_budget: int
    progress: float
    eta_s: float | None
    loss: float
    """Mean over the sites that train, weighted by their tokens."""
    held_out_loss: float
    tokens_per_s: float
    """Of the whole run: `tokens` over the time from the first step to the last merge."""
    compute_tokens_per_s: float
    """Sum over the sites."""
    equivalent_compute: float | None
    """`tokens_per_s` / `compute_tokens_per_s`; None before the first merge."""
    version: int
    merges: int
    full_quorum_merges: int
    server_lives: int
    bytes_up: int
    bytes_down: int
    leased_tokens: int
    merged_tokens: int
    discarded_tokens: dict[str, int]
    """By reason. They were leased again, save what was given up as poisoned."""
    checkpoints: int
    failed_checkpoints: int
    faults: int
    ettr: float | None
    """Effective training time of all sites over their wall time."""
    goodput: float | None
    """`tokens_per_s` over the sum of the sites' median undisturbed rates."""
    time: TimeSpent
    """Of all sites added up."""
    recovery: RecoveryFigures
    incidents: list[IncidentFigures]
    """The last ones, in the order in which they were told."""
    dropped_events: int
    experts: list[LayerFigures]
    """Of the sites together."""
    sites: list[SiteFigures]


def figures(view: RunView, now_s: float | None = None) -> Figures:
    """Args: now_s: Unix time, to tell who is silent; the journal's last event if not given."""
    now_s = max(view.last_s, now_s or 0.0)
    sites = [_site_figures(view, site, now_s) for site in view.sites.values()]
    tokens, rate = _overall(view)
    alone = sum(site.compute_tokens_per_s for site in sites)
    trained = [site for site in view.sites.values() if site.steps]
    left = max(0, view.token_budget - tokens)
    spent = together([site.time for site in sites])
    return Figures(
        name=view.name,
        state=view.finished or ("running" if trained else "starting"),
        elapsed_s=(view.last_s if view.finished else now_s) - view.started_s,
        num_params=view.num_params,
        tokens=tokens,
        token_budget=view.token_budget,
        progress=min(1.0, tokens / view.token_budget) if view.token_budget else 0.0,
        eta_s=left / rate if rate and not view.finished else None,
        loss=_mean([(site.loss, site.tokens) for site in trained]),
        held_out_loss=_latest_held_out(view),
        tokens_per_s=rate,
        compute_tokens_per_s=alone,
        equivalent_compute=rate / alone if rate and alone else None,
        version=view.version,
        merges=view.num_merges,
        full_quorum_merges=view.full_merges,
        server_lives=len(view.epochs),
        bytes_up=sum(site.bytes_up for site in sites),
        bytes_down=sum(site.bytes_down for site in sites),
        leased_tokens=view.leased_samples * view.seq_len,
        merged_tokens=view.merged_tokens,
        discarded_tokens={why: count * view.seq_len for why, count in view.discarded_samples.items()},
        checkpoints=view.num_checkpoints,
        failed_checkpoints=view.failed_checkpoints,
        faults=len(view.spans),
        ettr=spent.ettr,
        goodput=run_goodput(view, rate),
        time=spent,
        recovery=_recovery_figures(
            view.tally, list(view.incidents), sum(site.repeated_steps for site in view.sites.values())
        ),
        incidents=[incident_figures(incident) for incident in view.incidents],
        dropped_events=view.dropped_events,
        experts=layer_figures(site.experts for site in view.sites.values()),
        sites=sites,
    )


def _overall(view: RunView) -> tuple[int, float]:
    """(tokens that count, tokens per second of the whole run)"""
    starts = [site.first_s for site in view.sites.values() if site.steps]
    if not starts:
        return view.merged_tokens, 0.0
    if view.merges:
        tokens, end_s = view.merged_tokens, view.merges[-1].wall_s
    else:
        tokens = sum(site.tokens for site in view.sites.values())
        end_s = max(site.last_s for site in view.sites.values())
    return tokens, _ratio(tokens, end_s - min(starts))


def incident_figures(incident: Incident) -> IncidentFigures:
    return IncidentFigures(
        **{name: getattr(incident, name) for name in incident.__struct_fields__},
        open=incident.is_open,
        detect_s=length_s(incident, "detect"),
        diagnose_s=length_s(incident, "diagnose"),
        regroup_s=length_s(incident, "regroup"),
        resume_s=length_s(incident, "resume"),
        total_s=total_s(incident),
    )


def _recovery_figures(tally: Tally, kept: list[Incident], repeated_steps: int) -> RecoveryFigures:
    return RecoveryFigures(
        incidents=tally.count,
        open=sum(incident.is_open for incident in kept),
        by_class=tally.by_class,
        lost_steps=tally.lost_steps,
        repeated_steps=repeated_steps,
        recovery_s=tally.total_s / tally.closed if tally.closed else None,
        detect_s=tally.detect_s / tally.closed if tally.closed else None,
        last_recovery_s=tally.last_total_s if tally.closed else None,
    )


def _site_figures(view: RunView, site: SiteView, now_s: float) -> SiteFigures:
    spent = time_spent(view, site, now_s)
    mine = [incident for incident in view.incidents if incident.lane == site.name]
    return SiteFigures(
        name=site.name,
        state=site_state(view, site, now_s),
        steps=site.steps,
        tokens=site.tokens,
        loss=site.loss,
        held_out_loss=site.held_out_loss,
        tokens_per_s=_ratio(site.tokens, site.last_s - site.first_s),
        recent_tokens_per_s=_recent_rate(site, now_s if not view.finished else site.last_s),
        compute_tokens_per_s=_ratio(site.tokens, site.compute_s),
        waiting_share=_ratio(site.wait_s, site.wait_s + site.compute_s),
        inner_steps=round(_ratio(site.steps, site.pushes)),
        pushes=site.pushes,
        merged=site.merged,
        quarantined=site.quarantined,
        version=site.version,
        bytes_up=site.link.bytes_up or site.payload_up,
        bytes_down=site.link.bytes_down or site.payload_down,
        rtt_s=site.link.rtt_s,
        up_bps=site.link.up_bps,
        down_bps=site.link.down_bps,
        resent_chunks=site.link.resent_chunks,
        faults=sum(span.lane == site.name for span in view.spans),
        ettr=spent.ettr,
        goodput=site_goodput(site, spent),
        time=spent,
        recovery=_recovery_figures(site.tally, mine, site.repeated_steps),
        experts=layer_figures([site.experts]),
    )


def site_state(view: RunView, site: SiteView, now_s: float) -> str:
    open_kinds = {span.kind for span in view.spans if span.lane == site.name and span.end_s is None}
    if view.finished:
        return "done"
    if "rank_died" in open_kinds or "client_died" in open_kinds:
        return "down"
    if site.left:
        return "away"
    if not site.link.connected:
        return "offline"
    if not site.steps:
        return "joined" if site.present else "expected"
    return "silent" if now_s - site.last_s > SILENT_S else "training"


def _recent_rate(site: SiteView, now_s: float) -> float:
    """Tokens/s over the last steps and the silence since, so that a stalled site's rate falls."""
    if not site.recent:
        return 0.0
    began_s = site.recent[0][0] - site.recent[0][2]
    return _ratio(sum(tokens for _, tokens, _, _ in site.recent), heard_until_s(site, now_s) - began_s)


def _latest_held_out(view: RunView) -> float:
    points = [site.held_out.points()[-1] for site in view.sites.values() if site.held_out.points()]
    return max(points)[2] if points else float("nan")


def _mean(pairs: list[tuple[float, int]]) -> float:
    weight = sum(tokens for _, tokens in pairs)
    return sum(value * tokens for value, tokens in pairs) / weight if weight else float("nan")


def _ratio(amount: float, per: float) -> float:
    return amount / per if per > 0 else 0.0
