"""`apply(view, event) -> view`: the one pure function behind status, report, metrics and alerts."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from isthmus.journal import events, troubles
from isthmus.journal.alerts import CLEAN_LEAVES, add_alert, alert_of
from isthmus.journal.events import AnyEvent
from isthmus.journal.steps import after_step
from isthmus.journal.troubles import SERVER, close_span, open_span
from isthmus.journal.view import (
    KEPT,
    Checkpoint,
    Counted,
    LinkView,
    Merge,
    RunView,
    SiteView,
    site_of,
    with_site,
)


def fold(journal: Iterable[AnyEvent], view: RunView | None = None) -> RunView:
    return functools.reduce(apply, journal, view or RunView())


def apply(view: RunView, event: AnyEvent) -> RunView:
    """The view after one more event. Events come in time order; nothing else is assumed of them."""
    handler = _HANDLERS.get(type(event))
    if handler:
        view = handler(view, event)
    alert = alert_of(event)
    return replace(
        view,
        started_s=view.started_s or event.wall_s,
        last_s=max(view.last_s, event.wall_s),
        server_s=event.wall_s if event.source == SERVER else view.server_s,
        num_events=view.num_events + 1,
        alerts=add_alert(view.alerts, alert)[-KEPT:] if alert else view.alerts,
    )


def _run_started(view: RunView, event: events.RunStarted) -> RunView:
    known = {name: replace(site, top_step=0) for name, site in view.sites.items()}
    sites = {name: SiteView(name=name) for name in event.sites} | known
    return replace(
        view,
        name=event.name,
        num_params=event.num_params,
        token_budget=event.token_budget,
        seq_len=event.seq_len or view.seq_len,
        code_version=event.code_version,
        starts=view.starts + 1,
        finished="",
        sites=sites,
    )


def _run_finished(view: RunView, event: events.RunFinished) -> RunView:
    spans = tuple(replace(span, end_s=event.wall_s) if span.end_s is None else span for span in view.spans)
    return replace(view, finished=event.reason or "finished", spans=spans)


def _site_joined(view: RunView, event: events.SiteJoined) -> RunView:
    view = close_span(view, event, event.site, "site_left")
    joins = site_of(view, event.site).joins + 1
    return with_site(
        view,
        event.site,
        present=True,
        left="",
        joins=joins,
        incarnation=event.incarnation,
        version=event.version,
    )


def _site_left(view: RunView, event: events.SiteLeft) -> RunView:
    view = with_site(view, event.site, present=False, left=event.reason or "left")
    if event.reason in CLEAN_LEAVES:
        return view
    return open_span(view, event, event.site, "site_left", event.reason)


def _step_done(view: RunView, event: events.StepDone) -> RunView:
    site = after_step(site_of(view, event.site), event)
    return troubles.trained_on(replace(view, sites={**view.sites, event.site: site}), event)


def _eval_done(view: RunView, event: events.EvalDone) -> RunView:
    held_out = site_of(view, event.site).held_out.add(
        event.wall_s, float(event.tokens), event.loss, float(event.version)
    )
    return with_site(view, event.site, held_out_loss=event.loss, held_out=held_out)


def _experts_counted(view: RunView, event: events.ExpertsCounted) -> RunView:
    site = site_of(view, event.site)
    return with_site(
        view, event.site, experts=site.experts.add(event, site.compute_s + site.repeated_s + site.wait_s)
    )


def _range_leased(view: RunView, event: events.RangeLeased) -> RunView:
    return replace(view, leased_samples=view.leased_samples + event.end - event.start)


def _range_merged(view: RunView, event: events.RangeMerged) -> RunView:
    return replace(view, merged_samples=view.merged_samples + event.end - event.start)


def _range_discarded(view: RunView, event: events.RangeDiscarded) -> RunView:
    samples = view.discarded_samples.get(event.reason, 0) + event.end - event.start
    return replace(view, discarded_samples={**view.discarded_samples, event.reason: samples})


def _contribution_received(view: RunView, event: events.ContributionReceived) -> RunView:
    site = site_of(view, event.site)
    return with_site(
        view,
        event.site,
        pushes=site.pushes + 1,
        payload_up=site.payload_up + event.bytes_up,
    )


def _version_published(view: RunView, event: events.VersionPublished) -> RunView:
    """A version is counted once, although a server that starts again may tell it again."""
    if event.version <= view.version:
        return view
    for name in event.sites:
        view = with_site(view, name, merged=site_of(view, name).merged + 1)
    merge = Merge(
        wall_s=event.wall_s,
        version=event.version,
        sites=tuple(event.sites),
        tokens=event.tokens,
        full_quorum=event.full_quorum,
        wait_s=event.wait_s,
    )
    view = close_span(view, event, SERVER, "disk_full")
    return replace(
        view,
        version=event.version,
        merges=(*view.merges, merge)[-KEPT:],
        num_merges=view.num_merges + 1,
        full_merges=view.full_merges + event.full_quorum,
        merged_tokens=view.merged_tokens + event.tokens,
        merge_wait_s=view.merge_wait_s + event.wait_s,
    )


def _version_applied(view: RunView, event: events.VersionApplied) -> RunView:
    site = site_of(view, event.site)
    return with_site(
        view,
        event.site,
        version=max(site.version, event.version),
        delay_steps=event.delay_steps,
        refreshes=site.refreshes + event.refresh,
        payload_down=site.payload_down + event.bytes_down,
    )


def _quarantined(view: RunView, event: events.Quarantined) -> RunView:
    return with_site(view, event.site, quarantined=site_of(view, event.site).quarantined + 1)


def _link_sample(view: RunView, event: events.LinkSample) -> RunView:
    link = site_of(view, event.site).link
    before = link.counted.get(event.server, Counted())
    up = link.bytes_up + _gain(event.bytes_up, before.bytes_up)
    down = link.bytes_down + _gain(event.bytes_down, before.bytes_down)
    counted = {**link.counted, event.server: Counted(event.bytes_up, event.bytes_down, event.connected)}
    connected = any(server.connected for server in counted.values())
    now = LinkView(
        bytes_up=up,
        bytes_down=down,
        counted=counted,
        rtt_s=event.rtt_s or link.rtt_s,
        up_bps=event.up_bps or link.up_bps,
        down_bps=event.down_bps or link.down_bps,
        resent_chunks=max(event.resent_chunks, link.resent_chunks),
        connected=connected,
        curve=link.curve.add(event.wall_s, float(up), float(down), event.rtt_s),
    )
    view = with_site(view, event.site, link=now)
    if connected:
        return close_span(view, event, event.site, "link_down")
    return open_span(view, event, event.site, "link_down", "no connection to the server")


def _gain(counter: int, before: int) -> int:
    return counter - before if counter >= before else counter


def _checkpoint_saved(view: RunView, event: events.CheckpointSaved) -> RunView:
    saved = Checkpoint(
        wall_s=event.wall_s,
        what=event.what,
        version=event.version,
        step=event.step,
        path=event.path,
        duration_s=event.duration_s,
    )
    checkpoints = {**view.checkpoints, event.what: saved}
    return replace(view, num_checkpoints=view.num_checkpoints + 1, checkpoints=checkpoints)


def _checkpoint_failed(view: RunView, event: events.CheckpointFailed) -> RunView:
    return replace(view, failed_checkpoints=view.failed_checkpoints + 1)


def _events_dropped(view: RunView, event: events.EventsDropped) -> RunView:
    return replace(view, dropped_events=view.dropped_events + event.count)


_HANDLERS: dict[type, Callable[[RunView, Any], RunView]] = {
    events.RunStarted: _run_started,
    events.RunFinished: _run_finished,
    events.SiteJoined: _site_joined,
    events.SiteLeft: _site_left,
    events.StepDone: _step_done,
    events.EvalDone: _eval_done,
    events.ExpertsCounted: _experts_counted,
    events.RangeLeased: _range_leased,
    events.RangeMerged: _range_merged,
    events.RangeDiscarded: _range_discarded,
    events.ContributionReceived: _contribution_received,
    events.VersionPublished: _version_published,
    events.VersionApplied: _version_applied,
    events.Quarantined: _quarantined,
    events.LinkSample: _link_sample,
    events.ServerStarted: troubles.server_started,
    events.CheckpointSaved: _checkpoint_saved,
    events.CheckpointFailed: _checkpoint_failed,
    events.Fault: troubles.fault,
    events.Diagnosed: troubles.diagnosed,
    events.Healed: troubles.healed,
    events.Recovered: troubles.recovered,
    events.EventsDropped: _events_dropped,
}
