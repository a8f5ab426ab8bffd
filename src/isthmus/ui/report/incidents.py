"""The page's section on incidents: where the time went, in the run and inside each fault."""

from collections.abc import Sequence
from html import escape

from isthmus.journal.effective import TimeSpent
from isthmus.journal.figures import Figures, IncidentFigures
from isthmus.journal.incidents import Phase, phases
from isthmus.journal.view import RunView
from isthmus.ui import text
from isthmus.ui.report import html
from isthmus.ui.report.svg import Axis, Bar, lane_chart, ticks
from isthmus.ui.tables import found_after, what_of

WORDS = {"detect": "until found", "diagnose": "until diagnosed", "regroup": "until regrouped",
         "resume": "until back"}  # fmt: skip
SHARES = (
    ("training that counted", "effective_s", "good"),
    ("waiting for the server", "waiting_s", "present"),
    ("steps done again", "repeated_s", "regroup"),
    ("outages", "outage_s", "detect"),
    ("between steps", "between_s", "other"),
)
"""(name, part of TimeSpent, CSS class)"""
SCALES_S = (1.0, 10.0, 60.0, 600.0, 3600.0)
"""Incidents as long as this share a scale; longer ones have one of their own."""
MOST_LANES = 24
VISIBLE = 0.008
"""Share of the run below which the phases of an incident are not told apart in its lane."""
STRIP_WIDTH, STRIP_HEIGHT, AXIS_HEIGHT = 320.0, 16.0, 16.0
NOTE = (
    "An incident runs from the moment a fault began, as far as can be told, until the site trained again. "
    "Its strip begins at 0; all strips of a table have the same scale, and the columns beside it tell how "
    "long each part took. Steps lost are those done a second time."
)
SPENT_NOTE = (
    "Effective training time (ETTR, arXiv 2410.21680) is time in steps that counted over all time since the "
    "first step. A checkpoint's pause is part of its step. Goodput is the tokens that counted per second, "
    "over the median rate of undisturbed steps."
)


def section(view: RunView, shown: Figures, x: Axis) -> str:
    """The section as markup; empty before the first step if nothing went wrong. x: the run's time axis."""
    if not shown.incidents and shown.ettr is None:
        return ""
    parts = ["<h2>Where the time went</h2>", _spent(shown)]
    if shown.incidents:
        parts += ["<h2>Incidents</h2>", _lanes(view, shown.incidents, x), *_tables(view, shown.incidents)]
        left = shown.recovery.incidents - len(shown.incidents)
        parts.append(
            f'<p class="note">{escape(NOTE)}{f" {left:,} earlier ones are not listed." if left else ""}</p>'
        )
    return "".join(parts)


def _spent(shown: Figures) -> str:
    if shown.ettr is None:
        return ""
    rows = [(site.name, site.time, site.ettr, site.goodput) for site in shown.sites]
    if len(rows) > 1:
        rows.append(("all sites", shown.time, shown.ettr, shown.goodput))
    table = [
        [
            name,
            _share(ettr),
            _share(goodput),
            *(text.duration(_part_s(spent, part)) for _, part, _ in SHARES),
        ]
        for name, spent, ettr, goodput in rows
    ]
    bars = "".join(
        f'<div class="spent"><span>{escape(name)}</span>{_stack(spent)}</div>' for name, spent, _, _ in rows
    )
    head = ["", "ETTR", "goodput", *(name for name, _, _ in SHARES)]
    key = "".join(f'<span><i class="box {kind}"></i>{escape(name)}</span>' for name, _, kind in SHARES)
    return (
        f'<div class="panel"><div class="legend keys">{key}</div>{bars}{html.table(head, table)}</div>'
        f'<p class="note">{escape(SPENT_NOTE)}</p>'
    )


def _share(value: float | None) -> str:
    return text.NONE if value is None else text.percent(value)


def _part_s(spent: TimeSpent, part: str) -> float | None:
    """None below a millisecond, which is rounding."""
    amount_s = getattr(spent, part)
    return amount_s if amount_s >= 0.001 else None


def _stack(spent: TimeSpent) -> str:
    parts = [
        (f"{name}: {text.duration(amount_s)}, {text.percent(amount_s / spent.wall_s)}", amount_s, kind)
        for name, part, kind in SHARES
        if (amount_s := _part_s(spent, part))
    ]
    return html.stack(parts)


def _lanes(view: RunView, told: Sequence[IncidentFigures], x: Axis) -> str:
    """A lane for each rank, server and link that was in trouble, over the whole run."""
    last = {of.subject: of for of in told}
    latest = sorted(last, key=lambda subject: (not last[subject].open, -last[subject].began_s))[:MOST_LANES]
    lanes = sorted(latest, key=lambda subject: (last[subject].lane, _numbered(subject)))
    row = {subject: i for i, subject in enumerate(lanes)}
    bars = [
        Bar(start=x.low or 0.0, end=x.high or 1.0, title=f"{subject}: at work", kind="idle", lane=i)
        for subject, i in row.items()
    ]
    for of in (of for of in told if of.subject in row):
        bars += _bars(of, view, row[of.subject])
    hidden = len(last) - len(lanes)
    title = f"Who was in trouble when{f', the last {len(lanes)} of {len(last)}' if hidden else ''}"
    chart = lane_chart([_short(subject) for subject in lanes], bars, [], x)
    return html.figure(title, f'<div class="scroll">{chart}</div>', _key())


def _bars(of: IncidentFigures, view: RunView, lane: int) -> list[Bar]:
    """Its phases; of one that is too short for that, a single mark."""
    shown = _shown(of, view)
    if shown[-1].end_s - shown[0].start_s < VISIBLE * (view.last_s - view.started_s):
        start_s, end_s = shown[0].start_s - view.started_s, shown[-1].end_s - view.started_s
        return [Bar(start=start_s, end=end_s, title=_summary(of, view), kind="detect", lane=lane)]
    return [
        Bar(
            start=phase.start_s - view.started_s,
            end=phase.end_s - view.started_s,
            title=_title(of, phase),
            kind=_kind(of, phase),
            lane=lane,
        )
        for phase in shown
    ]


def _summary(of: IncidentFigures, view: RunView) -> str:
    words = [
        f"{'not over' if _kind(of, phase) == 'open' else WORDS[phase.name]} "
        f"{text.duration(phase.end_s - phase.start_s)}"
        for phase in _shown(of, view)
    ]
    return f"{of.subject}, {what_of(of)}: {', '.join(words)}"


def _numbered(subject: str) -> list[tuple[int, str]]:
    """So that rank 10 comes after rank 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in subject.split("-")]


def _short(subject: str) -> str:
    return subject if len(subject) <= 26 else f"{subject[:25]}…"


def _key() -> list[tuple[str, str]]:
    return [(word, f"var(--{name})") for name, word in WORDS.items()] + [
        ("not over", "color-mix(in srgb, var(--bad) 45%, transparent)")
    ]


def _tables(view: RunView, told: Sequence[IncidentFigures]) -> list[str]:
    """Open ones first, then from the shortest scale to the longest."""
    groups: dict[float, list[IncidentFigures]] = {}
    for of in told:
        groups.setdefault(-1.0 if of.open else _scale_s(of.total_s or 0.0), []).append(of)
    return [
        _table(view, group, "Not over yet" if scale_s < 0 else _range(scale_s))
        for scale_s, group in sorted(groups.items())
    ]


def _scale_s(length_s: float) -> float:
    return next((scale_s for scale_s in SCALES_S if length_s <= scale_s), float("inf"))


def _range(scale_s: float) -> str:
    if scale_s > SCALES_S[-1]:
        return f"Longer than {_whole(SCALES_S[-1])}"
    before = [scale for scale in SCALES_S if scale < scale_s]
    return f"{_whole(before[-1])} to {_whole(scale_s)}" if before else f"Back within {_whole(scale_s)}"


def _whole(seconds: float) -> str:
    return (
        f"{seconds:g} s"
        if seconds < 60
        else f"{seconds / 60:g} min"
        if seconds < 3600
        else f"{seconds / 3600:g} h"
    )


def _table(view: RunView, group: Sequence[IncidentFigures], title: str) -> str:
    longest_s = max(_length_s(of, view) for of in group)
    head = "".join(
        f"<th>{name}</th>" for name in ("found", "diagnosed", "regrouped", "back", "total", "steps lost")
    )
    rows = "".join(_row(of, view, longest_s) for of in group)
    return (
        f'<div class="panel incidents"><h3>{escape(title)}</h3><div class="scroll"><table><thead><tr>'
        f'<th>at</th><th class="text">who, what</th><th class="strip">{_axis(longest_s)}</th>{head}'
        f"</tr></thead>{rows}</table></div></div>"
    )


def _length_s(of: IncidentFigures, view: RunView) -> float:
    return max(sum(phase.end_s - phase.start_s for phase in phases(of, view.last_s)), 1e-3)


def _row(of: IncidentFigures, view: RunView, longest_s: float) -> str:
    times = (of.diagnose_s, of.regroup_s, of.resume_s)
    cells = [found_after(of), *(text.duration(value) for value in times)]
    cells += ["open" if of.open else text.duration(of.total_s), str(of.lost_steps) if of.done else text.NONE]
    numbers = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return (
        f"<tbody{' class=open' if of.open else ''}><tr>"
        f"<td>{escape(text.duration(of.began_s - view.started_s))}</td>"
        f'<td class="text"><b>{escape(of.subject)}</b><br>{escape(what_of(of))}</td>'
        f'<td class="strip">{_strip(of, view, longest_s)}</td>{numbers}</tr>'
        f'<tr class="more"><td></td><td class="text" colspan="8">{_story(of)}</td></tr></tbody>'
    )


def _story(of: IncidentFigures) -> str:
    """Cause, action and evidence, in lines."""
    sure = f" ({100 * of.confidence:.0f} % sure)" if of.confidence else ""
    lines = [
        ("Told", f"{of.kind.replace('_', ' ')}: {of.detail}" if of.detail and of.detail != of.cause else ""),
        ("Cause", f"{of.cause}{sure}" if of.cause else ""),
        ("Done", of.done.replace("_", " ")),
        ("Advised", of.action.replace("_", " ") if of.action != of.done else ""),
        ("Generation", str(of.generation) if of.generation else ""),
        ("Failed because of it", ", ".join(of.victims)),
        ("It worked if", of.verify),
    ]
    said = " ".join(f"<span><i>{name}</i> {escape(value)}</span>" for name, value in lines if value)
    seen = "".join(f"<li>{escape(line)}</li>" for line in of.evidence)
    return said + (f"<ul>{seen}</ul>" if seen else "")


def _strip(of: IncidentFigures, view: RunView, longest_s: float) -> str:
    """The incident's phases side by side, on its table's scale."""
    rects = "".join(_rect(of, phase, longest_s) for phase in _shown(of, view))
    size = f"{STRIP_WIDTH:g} {STRIP_HEIGHT:g}"
    return (
        f'<svg viewBox="0 0 {size}" role="img" aria-label="{escape(_summary(of, view))}">'
        f'<rect class="ground" width="{STRIP_WIDTH:g}" height="{STRIP_HEIGHT:g}" rx="3"/>{rects}</svg>'
    )


def _rect(of: IncidentFigures, phase: Phase, longest_s: float) -> str:
    left = STRIP_WIDTH * (phase.start_s - of.began_s) / longest_s
    width = max(0.75, STRIP_WIDTH * (phase.end_s - phase.start_s) / longest_s)
    return (
        f'<rect class="bar {_kind(of, phase)}" x="{left:.2f}" y="1" width="{width:.2f}" '
        f'height="{STRIP_HEIGHT - 2:g}"><title>{escape(_title(of, phase))}</title></rect>'
    )


def _axis(longest_s: float) -> str:
    marks = "".join(
        f'<text class="tick" x="{STRIP_WIDTH * at_s / longest_s:.1f}" y="11" '
        f'text-anchor="{_anchor(at_s, longest_s)}">{escape(_moment(at_s))}</text>'
        for at_s in ticks(0.0, longest_s, 4, time=longest_s > 2)
    )
    size = f"{STRIP_WIDTH:g} {AXIS_HEIGHT:g}"
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="time since it began">{marks}</svg>'


def _moment(at_s: float) -> str:
    return f"{at_s / 60:g} min" if at_s >= 60 else text.duration(at_s) if at_s else "0"


def _anchor(at_s: float, longest_s: float) -> str:
    return "start" if not at_s else "end" if at_s > 0.93 * longest_s else "middle"


def _shown(of: IncidentFigures, view: RunView) -> list[Phase]:
    return [
        phase for phase in phases(of, view.last_s) if phase.end_s > phase.start_s or phase.name == "resume"
    ]


def _kind(of: IncidentFigures, phase: Phase) -> str:
    return "open" if of.open and phase.name == "resume" else phase.name


def _title(of: IncidentFigures, phase: Phase) -> str:
    word = "not over" if _kind(of, phase) == "open" else WORDS[phase.name]
    return f"{of.subject}, {what_of(of)}: {word} {text.duration(phase.end_s - phase.start_s)}"
