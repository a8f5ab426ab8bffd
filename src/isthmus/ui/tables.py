"""Tables for the terminal, from a run's figures."""

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isthmus.journal.alerts import Alert
from isthmus.journal.experts import LayerFigures
from isthmus.journal.figures import Figures, IncidentFigures, SiteFigures, figures
from isthmus.journal.view import RunView
from isthmus.ui import text

LAST_ALERTS = 5
LAST_INCIDENTS = 6
AT_ONCE_S = 0.001
PIPE_WIDTH = 120
_STATE_COLOURS = {"training": "green", "offline": "yellow", "silent": "yellow", "down": "red", "away": "red"}
_LEVEL_COLOURS = {"critical": "bold red", "warning": "yellow", "info": "dim"}

Measure = tuple[str, Callable[[SiteFigures], str], Callable[[Figures], str]]

MEASURES: tuple[Measure, ...] = (
    ("steps", lambda s: f"{s.steps:,}", lambda f: f"{sum(s.steps for s in f.sites):,}"),
    ("tokens trained", lambda s: text.number(s.tokens),
     lambda f: text.number(sum(s.tokens for s in f.sites))),
    ("tokens merged", lambda s: "", lambda f: text.number(f.merged_tokens)),
    ("last loss", lambda s: text.loss(s.loss), lambda f: text.loss(f.loss)),
    ("held-out loss", lambda s: text.loss(s.held_out_loss), lambda f: text.loss(f.held_out_loss)),
    ("inner steps per push", lambda s: str(s.inner_steps or text.NONE), lambda f: ""),
    ("pushes merged", lambda s: f"{s.merged} of {s.pushes}", lambda f: f"{f.merges} versions"),
    ("sent to the server", lambda s: text.size(s.bytes_up), lambda f: text.size(f.bytes_up)),
    ("received from it", lambda s: text.size(s.bytes_down), lambda f: text.size(f.bytes_down)),
    ("round trip", lambda s: text.duration(s.rtt_s or None), lambda f: ""),
    ("chunks sent again", lambda s: str(s.resent_chunks),
     lambda f: str(sum(s.resent_chunks for s in f.sites))),
    ("faults", lambda s: str(s.faults), lambda f: str(f.faults)),
    ("waiting for the server", lambda s: text.percent(s.waiting_share) if s.steps else text.NONE,
     lambda f: ""),
    ("tokens/s, computing only", lambda s: text.number(s.compute_tokens_per_s),
     lambda f: text.number(f.compute_tokens_per_s)),
    ("tokens/s", lambda s: text.number(s.tokens_per_s), lambda f: text.number(f.tokens_per_s)),
    ("equivalent compute", lambda s: "", lambda f: text.ratio(f.equivalent_compute)),
)  # fmt: skip
"""What each site did, what crossed its link, and the equivalent compute: (name, of a site, of the run)."""

EQUIVALENT_COMPUTE = (
    "Equivalent compute: tokens/s of the whole run (merged tokens, from the first step to the last merge) "
    "over the sum of what the sites reach in their steps while not waiting. 1: the distance cost nothing."
)


def console(stderr: bool = False) -> Console:
    """The terminal; a fixed width where the output goes to a pipe or a file."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def summary(view: RunView) -> RenderableType:
    """One table: a column per site and one for the whole run."""
    shown = figures(view)
    table = Table(
        title=f"{shown.name}: {shown.state} after {text.duration(shown.elapsed_s)}", title_style="bold"
    )
    table.add_column("")
    for site in shown.sites:
        table.add_column(site.name, justify="right")
    table.add_column("whole run", justify="right", style="bold")
    for name, of_site, of_run in MEASURES:
        last = name == "equivalent compute"
        table.add_row(name, *map(of_site, shown.sites), of_run(shown), style="bold green" if last else None)
    return Group(table, Text(EQUIVALENT_COMPUTE, style="dim"))


def status(view: RunView, now_s: float) -> RenderableType:
    """Where the run stands: progress, a row per site, the latest alerts."""
    shown = figures(view, now_s)
    bar = Padding(ProgressBar(total=1.0, completed=shown.progress, width=78), (0, 0, 1, 0))
    parts: list[RenderableType] = [_headline(shown), bar, _sites(shown)]
    if shown.incidents:
        parts += [Text(_incidents_title(shown), style="bold"), _incidents(shown, view)]
    if shown.experts:
        parts += [Text("\nexperts, lately", style="bold"), _experts(shown)]
    if view.alerts:
        parts += [Text("\nlatest alerts", style="bold")]
        parts += [_alert(alert, view.started_s) for alert in view.alerts[-LAST_ALERTS:]]
    return Group(*parts)


def _headline(shown: Figures) -> Text:
    facts = [
        f"{shown.state} for {text.duration(shown.elapsed_s)}"
        if shown.state in ("starting", "running")
        else f"{shown.state} after {text.duration(shown.elapsed_s)}",
        *_done(shown),
    ]
    if shown.eta_s is not None:
        facts.append(f"{text.duration(shown.eta_s)} left")
    facts.append(f"version {shown.version}")
    if shown.equivalent_compute is not None:
        facts.append(f"equivalent compute {text.ratio(shown.equivalent_compute)}")
    if shown.ettr is not None:
        facts.append(f"ETTR {text.percent(shown.ettr)}")
    return Text.assemble((shown.name or "run", "bold"), "  ", ", ".join(facts))


def _done(shown: Figures) -> list[str]:
    """Of a script nobody knows how many tokens a step has."""
    if not shown.token_budget:
        return [f"{max((site.steps for site in shown.sites), default=0):,} steps"]
    return [
        f"{text.number(shown.tokens)} of {text.number(shown.token_budget)} tokens",
        f"{text.number(shown.tokens_per_s)} tokens/s",
    ]


def _sites(shown: Figures) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("site")
    table.add_column("state")
    for name in ("step", "loss", "tokens/s", "waiting", "ETTR", "version", "up", "down", "round trip"):
        table.add_column(name, justify="right")
    for site in shown.sites:
        table.add_row(
            site.name,
            Text(site.state, style=_STATE_COLOURS.get(site.state, "")),
            f"{site.steps:,}",
            text.loss(site.loss),
            text.number(site.recent_tokens_per_s),
            text.percent(site.waiting_share) if site.steps else text.NONE,
            text.percent(site.ettr) if site.ettr is not None else text.NONE,
            str(site.version),
            text.size(site.bytes_up),
            text.size(site.bytes_down),
            text.duration(site.rtt_s or None),
        )
    return table


def _incidents_title(shown: Figures) -> str:
    told = shown.recovery
    facts = [f"{told.incidents:,} incident{'s' if told.incidents != 1 else ''}"]
    facts += [f"{told.open} open"] if told.open else []
    if told.recovery_s is not None:
        facts.append(f"back after {text.duration(told.recovery_s)} on average")
    facts += [f"{told.repeated_steps:,} steps done again"] if told.repeated_steps else []
    return "\n" + ", ".join(facts)


def _incidents(shown: Figures, view: RunView) -> Table:
    """Open ones first, then the last ones, latest first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("when", justify="right")
    table.add_column("who")
    table.add_column("what", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("found after", "back after", "steps lost"):
        table.add_column(name, justify="right", no_wrap=True)
    latest = sorted(shown.incidents, key=lambda told: (not told.open, -told.began_s))
    for told in latest[:LAST_INCIDENTS]:
        table.add_row(
            text.duration(told.began_s - view.started_s),
            told.subject,
            what_of(told),
            found_after(told),
            "OPEN" if told.open else text.duration(told.total_s),
            str(told.lost_steps) if told.done else text.NONE,
            style="bold red" if told.open else None,
        )
    return table


def found_after(told: IncidentFigures) -> str:
    """'at once' below a millisecond; unknown where nothing tells when it began."""
    if not told.detect_s:
        return text.NONE
    return text.duration(told.detect_s) if told.detect_s >= AT_ONCE_S else "at once"


def what_of(told: IncidentFigures) -> str:
    """'ecc (XID-48), restart rank'; what was told of the fault where there is no diagnosis."""
    entry = f" ({told.entry})" if told.entry else ""
    what = (told.fault_class or told.kind).replace("_", " ") + entry
    times = f", {told.times} times" if told.times > 1 else ""
    done = told.done or told.action
    return what + times + (f", {done.replace('_', ' ')}" if done else "")


def _experts(shown: Figures) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("site")
    for name in ("largest load", "smallest load", "drop rate", "coefficient", "gate entropy", "dead"):
        table.add_column(name, justify="right")
    for site in shown.sites:
        if site.experts:
            table.add_row(site.name, *_worst(site.experts))
    return table


def _worst(layers: Sequence[LayerFigures]) -> tuple[str | Text, ...]:
    """Of all layers, with the layer it is of; the drop rate and the coefficient are means."""
    largest = max(layers, key=lambda of: of.max_load)
    smallest = min(layers, key=lambda of: of.min_load)
    sharpest = min(layers, key=lambda of: of.entropy)
    dead = sum(len(of.dead) for of in layers)
    return (
        f"{largest.max_load:.2f} (layer {largest.layer})",
        f"{smallest.min_load:.2f} (layer {smallest.layer})",
        text.percent(fmean(of.drop_rate for of in layers)),
        f"{fmean(of.coef for of in layers):.3g}",
        f"{text.percent(sharpest.entropy)} (layer {sharpest.layer})",
        Text(str(dead), style="red") if dead else "none",
    )


def _alert(alert: Alert, started_s: float) -> Text:
    since = text.duration(max(alert.wall_s, alert.last_s) - started_s)
    times = f" ({alert.times} times)" if alert.times > 1 else ""
    line = f"{since:>12}  {alert.subject}: {alert.kind}{times}  {alert_text(alert)}"
    return Text(line, style=_LEVEL_COLOURS[alert.level], no_wrap=True, overflow="ellipsis")


def alert_text(alert: Alert) -> str:
    """Without the subject, where that stands beside it."""
    return alert.text.removeprefix(f"{alert.subject}: ")
