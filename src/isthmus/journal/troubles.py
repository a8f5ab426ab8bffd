"""Folding what goes wrong and comes back: spans in which something was in trouble, and incidents."""

import re

from msgspec.structs import replace

from isthmus.journal import events, incident_changes, incidents
from isthmus.journal.events import AnyEvent
from isthmus.journal.incident_changes import FLAP_S, LASTING, OF_LINKS
from isthmus.journal.steps import after_outage
from isthmus.journal.view import KEPT, Epoch, RunView, Span, site_of, with_site

SERVER = "server"
OUTAGE_S = 0.2
"""A new life of the server is shown as an outage only if it was not heard for longer than this."""


def lane_of(view: RunView, subject: str) -> str:
    """The site that a subject such as 'rank-jinan-0' belongs to; the subject itself where it is none."""
    for site in sorted(view.sites, key=len, reverse=True):
        if re.search(rf"(^|[^A-Za-z0-9]){re.escape(site)}($|[^A-Za-z0-9])", subject):
            return site
    return subject


def open_span(view: RunView, event: AnyEvent, subject: str, kind: str, detail: str) -> RunView:
    lane = lane_of(view, subject)
    if any(span.end_s is None and (span.lane, span.kind) == (lane, kind) for span in view.spans):
        return view
    lasts = kind.endswith(LASTING) or kind in OF_LINKS
    for i, span in enumerate(view.spans):
        flaps = lasts and span.end_s is not None and event.wall_s - span.end_s < FLAP_S
        if flaps and (span.lane, span.kind) == (lane, kind):
            again = replace(span, end_s=None)
            return replace(view, spans=(*view.spans[:i], again, *view.spans[i + 1 :]))
    end_s = None if lasts else event.wall_s
    span = Span(lane=lane, subject=subject, kind=kind, detail=detail, start_s=event.wall_s, end_s=end_s)
    return replace(view, spans=(*view.spans, span)[-KEPT:])


def close_span(view: RunView, event: AnyEvent, subject: str, kind: str) -> RunView:
    lane = lane_of(view, subject)

    def closed(span: Span) -> Span:
        ends = span.end_s is None and (span.lane, span.kind) == (lane, kind)
        return replace(span, end_s=event.wall_s) if ends else span

    over = incident_changes.after_recovery(view.incidents, subject, kind, lane, event.wall_s)
    return _with_incidents(replace(view, spans=tuple(map(closed, view.spans))), over)


def _with_incidents(view: RunView, changes: incident_changes.Changes) -> RunView:
    """The view with incidents changed, and counted for the run and for their sites."""
    for old, new in changes:
        view = replace(view, tally=incidents.counted(view.tally, old, new))
        if new.lane in view.sites:
            view = with_site(view, new.lane, tally=incidents.counted(view.sites[new.lane].tally, old, new))
    if not changes:
        return view
    return replace(view, incidents=incident_changes.kept_with(view.incidents, changes, KEPT))


def fault(view: RunView, event: events.Fault) -> RunView:
    view = _minded(view, event)
    view = open_span(view, event, event.subject, event.kind, event.detail)
    return _with_incidents(view, incident_changes.after_fault(view.incidents, event, _lane(view, event)))


def diagnosed(view: RunView, event: events.Diagnosed) -> RunView:
    view = _minded(view, event)
    return _with_incidents(view, incident_changes.after_diagnosis(view.incidents, event, _lane(view, event)))


def healed(view: RunView, event: events.Healed) -> RunView:
    changes = incident_changes.after_heal(view.incidents, event)
    if changes is None:
        return view
    end_s = event.resumed_s or event.wall_s
    site = after_outage(site_of(view, event.site), (event.began_s or end_s, end_s))
    site = replace(site, minded=True, tally=_lost(site.tally, event))
    view = replace(view, sites={**view.sites, event.site: site})
    spans = tuple(
        replace(span, end_s=event.wall_s)
        if span.end_s is None and span.lane == event.site and incidents.is_rank(span.subject)
        else span
        for span in view.spans
    )
    return _with_incidents(replace(view, spans=spans, tally=_lost(view.tally, event)), changes)


def trained_on(view: RunView, event: events.StepDone) -> RunView:
    """A step of a site whose ranks an agent minds ends what was told as a fault and passed by itself."""
    if not site_of(view, event.site).minded:
        return view
    started_s = event.wall_s - event.step_s
    return _with_incidents(view, incident_changes.after_step(view.incidents, event.site, started_s))


def _lost(tally: incidents.Tally, event: events.Healed) -> incidents.Tally:
    return replace(tally, lost_steps=tally.lost_steps + max(0, event.lost_steps))


def _lane(view: RunView, event: events.Fault | events.Diagnosed) -> str:
    return incidents.site_of_agent(event.source) or lane_of(view, event.subject)


def _minded(view: RunView, event: events.Fault | events.Diagnosed) -> RunView:
    site = incidents.site_of_agent(event.source)
    if not site and isinstance(event, events.Diagnosed):
        site = lane_of(view, event.subject)
        site = site if site in view.sites else ""
    return with_site(view, site, minded=True) if site else view


def recovered(view: RunView, event: events.Recovered) -> RunView:
    return close_span(view, event, event.subject, event.kind)


def server_started(view: RunView, event: events.ServerStarted) -> RunView:
    epoch = Epoch(
        wall_s=event.wall_s,
        server_epoch=event.server_epoch,
        version=event.version,
        replayed=event.replayed,
    )
    told = any(span.lane == SERVER and span.end_s is None for span in view.spans)
    if view.epochs and not told and not view.finished and event.wall_s - view.server_s > OUTAGE_S:
        detail = f"restarted as epoch {event.server_epoch} from version {event.version}"
        span = Span(
            lane=SERVER,
            subject=SERVER,
            kind="server_down",
            detail=detail,
            start_s=view.server_s,
            end_s=event.wall_s,
        )
        view = replace(view, spans=(*view.spans, span)[-KEPT:])
    closed = tuple(
        replace(span, end_s=event.wall_s) if span.lane == SERVER and span.end_s is None else span
        for span in view.spans
    )
    view = replace(view, epochs=(*view.epochs, epoch)[-KEPT:], spans=closed)
    return _with_incidents(
        view, incident_changes.after_recovery(view.incidents, SERVER, "", SERVER, event.wall_s)
    )
