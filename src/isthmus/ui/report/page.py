"""A run's report as one HTML page that needs nothing else: no script, no network, light and dark."""

import time
from collections.abc import Mapping
from html import escape
from importlib.resources import files

from isthmus.journal.alerts import Alert
from isthmus.journal.figures import Figures, figures
from isthmus.journal.fold import SERVER
from isthmus.journal.view import RunView, SiteView, Span
from isthmus.ui import text
from isthmus.ui.report import curves, experts, html, incidents
from isthmus.ui.report.svg import Axis, Bar, Mark, Series, lane_chart, line_chart
from isthmus.ui.tables import EQUIVALENT_COMPUTE, MEASURES, alert_text

BAD_FAULTS = ("died", "left", "down")


def render(view: RunView, documents: Mapping[str, str] | None = None) -> str:
    """The page. `documents`: texts to show at its end by name, such as the run's YAML."""
    shown = figures(view)
    sections = [
        _header(view, shown),
        _cards(view, shown),
        "<h2>What each site did, what crossed the link</h2>",
        _measures(shown),
        f'<p class="note">{escape(EQUIVALENT_COMPUTE)}</p>',
        "<h2>Timeline</h2>",
        _timeline(view),
        incidents.section(view, shown, _time_axis(view)),
        "<h2>Learning</h2>",
        f'<div class="charts">{_losses(view)}</div>',
        experts.section(view, _time_axis(view)),
        "<h2>Speed and links</h2>",
        f'<div class="charts">{_speeds(view)}</div>',
        "<h2>Versions and tokens</h2>",
        f'<div class="columns">{_fate(view, shown)}{_versions(view, shown)}</div>',
        _faults(view),
        _documents(documents or {}),
        f"<footer>{escape(_footer(view))}</footer>",
    ]
    style = files(__package__ or "").joinpath("page.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(view.name or 'run')}: report</title><style>{style}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _header(view: RunView, shown: Figures) -> str:
    kind = "running" if not view.finished else "failed" if view.finished.startswith("failed") else ""
    word = {"budget": "finished"}.get(view.finished, view.finished) or shown.state
    facts = [
        f"{text.number(shown.num_params)} parameters",
        f"{len(shown.sites)} site{'s' if len(shown.sites) != 1 else ''}",
        f"{text.duration(shown.elapsed_s)}",
        f"started {time.strftime('%Y-%m-%d %H:%M', time.localtime(view.started_s))}",
    ]
    return (
        f'<header><h1>{escape(view.name or "run")}</h1><span class="chip {kind}">{escape(word)}</span>'
        f'</header><p class="facts">{escape(" · ".join(facts))}</p>'
    )


def _cards(view: RunView, shown: Figures) -> str:
    waiting = max((site.waiting_share for site in shown.sites), default=0.0)
    lost = sum(shown.discarded_tokens.values())
    cards = [
        html.card(
            "equivalent compute", text.ratio(shown.equivalent_compute), "of all sites added up", hero=True
        ),
        html.card(
            "tokens/s",
            text.number(shown.tokens_per_s),
            f"{text.number(shown.tokens)} of {text.number(shown.token_budget)} tokens",
        ),
        html.card("held-out loss", text.loss(shown.held_out_loss), f"training {text.loss(shown.loss)}"),
        html.card("sent to the server", text.size(shown.bytes_up), f"{text.size(shown.bytes_down)} back"),
        html.card("effective time", _ettr(shown), f"{text.percent(waiting)} waiting at most"),
        html.card(
            "faults",
            str(shown.faults),
            f"{text.number(lost)} tokens trained again" if lost else "no token lost",
        ),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _ettr(shown: Figures) -> str:
    return text.NONE if shown.ettr is None else text.percent(shown.ettr)


def _measures(shown: Figures) -> str:
    rows = [
        (name, [of_site(site) for site in shown.sites], of_run(shown)) for name, of_site, of_run in MEASURES
    ]
    return html.measures([site.name for site in shown.sites], rows, total="equivalent compute")


def _sites(view: RunView) -> list[tuple[SiteView, str]]:
    return [(site, html.colour(i)) for i, site in enumerate(view.sites.values())]


def _legend(view: RunView) -> list[tuple[str, str]]:
    return [(site.name, tint) for site, tint in _sites(view)]


def _time_axis(view: RunView) -> Axis:
    return Axis(show=_moment, low=0.0, high=max(view.last_s - view.started_s, 1e-3), time=True)


def _moment(seconds: float) -> str:
    """A time on an axis: '45 s', '1:30', '2:05:00'."""
    if abs(seconds) < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _losses(view: RunView) -> str:
    by_tokens, by_time, held_out, trained = [], [], [], []
    for site, tint in _sites(view):
        raw = curves.loss_over_tokens(view, site)
        by_tokens += [
            Series(name=site.name, colour=tint, points=raw, faint=True),
            Series(name=site.name, colour=tint, points=curves.smoothed(raw)),
        ]
        timed = curves.smoothed(curves.loss_over_time(view, site))
        by_time.append(Series(name=site.name, colour=tint, points=timed))
        rows = site.curve.points()
        trained.append(Series(name=site.name, colour=tint, points=curves.column(view, rows, 1)))
        if site.held_out.points():
            held_out.append(
                Series(name=site.name, colour=tint, points=curves.held_out_over_tokens(view, site), dots=True)
            )
    loss = Axis(show=lambda value: f"{value:.3g}")
    tokens = Axis(show=text.tick, low=0.0)
    charts = [
        html.figure(
            "Training loss by tokens of the whole run", line_chart(by_tokens, tokens, loss), _legend(view)
        ),
        html.figure(
            "Training loss by time",
            line_chart(by_time, _time_axis(view), loss, _bands(view)),
            _legend(view),
        ),
    ]
    if held_out:
        charts.append(
            html.figure(
                "Held-out loss by tokens of the whole run", line_chart(held_out, tokens, loss), _legend(view)
            )
        )
    charts.append(
        html.figure(
            "Tokens trained", line_chart(trained, _time_axis(view), tokens, _bands(view)), _legend(view)
        )
    )
    return "".join(charts)


def _speeds(view: RunView) -> str:
    training, sending, waiting, delay = [], [], [], []
    for site, tint in _sites(view):
        steps, link = site.curve.points(), site.link.curve.points()
        for series, points in (
            (training, curves.rate(view, steps, 1)),
            (waiting, curves.rate(view, steps, 3, scale=100)),
            (sending, curves.rate(view, link, 1, scale=8)),
            (delay, curves.column(view, link, 3)),
        ):
            series.append(Series(name=site.name, colour=tint, points=points))
    number = Axis(show=text.tick, low=0.0)
    rows = [
        ("Tokens per second", training, number),
        ("Waiting for the server, % of time", waiting, Axis(show=lambda value: f"{value:.3g} %", low=0.0)),
        ("Sent to the server, bit/s", sending, number),
        ("Round trip", delay, Axis(show=text.duration, low=0.0)),
    ]
    return "".join(
        html.figure(title, line_chart(series, _time_axis(view), axis, _bands(view)), _legend(view))
        for title, series, axis in rows
    )


def _kind(span: Span) -> str:
    return "bad" if any(word in span.kind for word in BAD_FAULTS) else "warn"


def _title(span: Span, view: RunView) -> str:
    end = f"for {text.duration(span.end_s - span.start_s)}" if span.end_s else "until now"
    return f"{span.subject}: {span.kind} at {_moment(span.start_s - view.started_s)} {end}  {span.detail}"


def _span_bar(span: Span, view: RunView, lane: int = 0) -> Bar:
    end_s = view.last_s if span.end_s is None else span.end_s
    return Bar(
        start=span.start_s - view.started_s,
        end=end_s - view.started_s,
        title=_title(span, view),
        kind=_kind(span),
        lane=lane,
    )


def _bands(view: RunView) -> list[Bar]:
    return [_span_bar(span, view) for span in view.spans]


def _timeline(view: RunView) -> str:
    others = dict.fromkeys(span.lane for span in view.spans if span.lane not in view.sites)
    lanes = ["versions", *dict.fromkeys([SERVER, *view.sites, *others])]
    row = {name: i for i, name in enumerate(lanes)}
    bars = [
        Bar(start=epoch.wall_s - view.started_s, end=view.last_s - view.started_s, kind="present", lane=1,
            title=f"server epoch {epoch.server_epoch} from version {epoch.version}")
        for epoch in view.epochs[:1]
    ]  # fmt: skip
    bars += [
        Bar(
            start=site.first_s - view.started_s,
            end=site.last_s - view.started_s,
            title=f"{site.name}: {site.steps:,} steps",
            kind="present",
            lane=row[site.name],
        )
        for site in view.sites.values()
        if site.steps
    ]
    bars += [_span_bar(span, view, row[span.lane]) for span in view.spans]
    marks = [
        Mark(
            lane=0,
            at=merge.wall_s - view.started_s,
            kind="good" if merge.full_quorum else "warn",
            title=f"version {merge.version} from {', '.join(merge.sites)} at "
            f"{_moment(merge.wall_s - view.started_s)}, {text.number(merge.tokens)} tokens",
        )
        for merge in view.merges
    ]
    key = [
        ("at work", "var(--idle)"),
        ("all sites merged", "var(--good)"),
        ("some sites merged", "var(--warn)"),
        ("process or link down", "var(--bad)"),
    ]
    chart = lane_chart(lanes, bars, marks, _time_axis(view))
    return html.figure("Versions, faults and recoveries", f'<div class="scroll">{chart}</div>', key)


def _fate(view: RunView, shown: Figures) -> str:
    parts = [("merged", float(shown.merged_tokens), "good")]
    parts += [
        (why, float(tokens), "bad" if why == "poisoned" else "warn")
        for why, tokens in shown.discarded_tokens.items()
    ]
    total = sum(amount for _, amount, _ in parts) or 1.0
    rows = [
        ["merged into a version" if name == "merged" else f"discarded: {name}", text.number(amount),
         text.percent(amount / total)]
        for name, amount, _ in parts
    ]  # fmt: skip
    note = "Discarded ranges were leased again, so that each token is merged once; poisoned ones were not."
    return html.panel(
        "Fate of the tokens",
        html.stack(parts),
        html.table(["", "tokens", "share"], rows),
        f'<p class="note">{note}</p>',
    )


def _versions(view: RunView, shown: Figures) -> str:
    latest = max(view.checkpoints.values(), key=lambda saved: saved.wall_s, default=None)
    mean_wait_s = view.merge_wait_s / view.num_merges if view.num_merges else None
    rows = [
        ["versions published", f"{shown.merges}"],
        ["of them from all sites", f"{shown.full_quorum_merges}"],
        ["the server waited for a quorum, on average", text.duration(mean_wait_s)],
        ["lives of the server", f"{shown.server_lives}"],
        ["pushes refused as outliers", f"{sum(site.quarantined for site in shown.sites)}"],
        ["parameters sent in full again", f"{sum(site.refreshes for site in view.sites.values())}"],
        ["checkpoints saved", f"{shown.checkpoints}"],
        ["checkpoints that failed", f"{shown.failed_checkpoints}"],
    ]
    if latest:
        rows.append(["last checkpoint", f"version {latest.version}, took {text.duration(latest.duration_s)}"])
    return html.panel("Versions and checkpoints", html.table(["", ""], rows))


def _faults(view: RunView) -> str:
    if not view.alerts:
        return ""
    rows = [
        [_moment(alert.wall_s - view.started_s), alert.subject, _what(alert), alert_text(alert)]
        for alert in view.alerts
    ]
    table = html.table(["at", "who", "what", "detail"], rows, text_columns=(1, 2, 3))
    return f'<h2>Alerts: what went wrong, and came back</h2><div class="panel">{table}</div>'


def _what(alert: Alert) -> str:
    return alert.kind.replace("_", " ") + (f", {alert.times} times" if alert.times > 1 else "")


def _documents(documents: Mapping[str, str]) -> str:
    if not documents:
        return ""
    return "<h2>Settings</h2>" + "".join(html.details(name, body) for name, body in documents.items())


def _footer(view: RunView) -> str:
    lost = f", {view.dropped_events} lost" if view.dropped_events else ""
    again = f" · resumed {view.starts - 1} times" if view.starts > 1 else ""
    return f"isthmus {view.code_version} · {view.num_events:,} events{lost}{again}"
