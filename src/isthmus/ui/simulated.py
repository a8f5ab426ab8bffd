"""What `isthmus simulate` found, for people: a table, the advice, a picture."""

import math
from collections.abc import Iterator
from statistics import fmean

import msgspec
import numpy as np

from isthmus.planner.failures.assumptions import NODE_MTBF_S, Assumptions
from isthmus.planner.failures.job import Job
from isthmus.planner.failures.replay import DAY_S, Outcome
from isthmus.planner.failures.sweep import Advice, Horizon, Point, Quantity
from isthmus.planner.failures.unit import ALL
from isthmus.ui import text
from isthmus.ui.report.sheet import COLOURS, Panel, lane_sheet, sheet
from isthmus.ui.report.svg import Axis, Bar, Series

_AGAINST = {
    "mtbf": "mean time between failures of a node",
    "checkpoint": "checkpoint interval",
    "spares": "spares at each site",
}


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """One call: what was replayed, and what came out."""

    job: Job
    assumed: Assumptions
    horizon: Horizon
    outcomes: list[Outcome]
    advice: Advice
    quantity: Quantity | None
    points: list[Point]
    """Of the sweep over `quantity`; empty without one."""


def describe(found: Simulated) -> str:
    """The page for a terminal."""
    parts = [_headline(found), *_sites(found), "", *_where(found), "", *_advice(found)]
    if found.quantity:
        parts += ["", *_points(found.quantity, found.points)]
    return "\n".join([*parts, "", *_assumed(found)])


def chart(found: Simulated) -> str:
    """SVG: goodput against what was swept, or else the first replay's outages."""
    if not found.quantity:
        first = found.outcomes[0]
        lanes = list(dict.fromkeys(outage.site for outage in first.outages)) or ["no outage"]
        bars = [
            Bar(
                start=outage.start_s / DAY_S,
                end=outage.end_s / DAY_S,
                title=f"{outage.site}: {text.duration(outage.end_s - outage.start_s)}",
                kind="bad",
                lane=lanes.index(outage.site),
            )
            for outage in first.outages
        ]
        title = f"Outages in {first.days:g} days, goodput {text.percent(first.goodput)}"
        return lane_sheet(title, lanes, bars, Axis(show=lambda day: f"{day:g} d", high=first.days))
    is_log = found.quantity != "spares"
    across = (lambda value: math.log2(value)) if is_log else (lambda value: value)
    points = [(across(point.value), 100 * point.goodput) for point in found.points]
    series = [Series(name="goodput", colour=COLOURS[1], points=points, dots=True)]
    if found.horizon.repeat > 1:
        for name in ("low", "high"):
            edge = [(across(point.value), 100 * getattr(point, name)) for point in found.points]
            series.append(Series(name=f"{name} (9 of 10)", colour=COLOURS[2], points=edge, faint=True))
    x = Axis(show=(lambda value: text.duration(2**value)) if is_log else text.tick)
    title = f"Goodput against {_AGAINST[found.quantity]}"
    return sheet([Panel(title, series, x, Axis(show=lambda value: f"{value:.3g} %"))])


def _headline(found: Simulated) -> str:
    goodputs = [outcome.goodput for outcome in found.outcomes]
    tokens = fmean(outcome.tokens for outcome in found.outcomes)
    every = found.job.tokens_per_s * found.horizon.days * DAY_S
    return (
        f"goodput {text.percent(fmean(goodputs))}{_spread(goodputs)}: {text.number(tokens)} tokens stay of "
        f"{text.number(every)} in {found.horizon.days:g} days; mode {found.job.mode}, "
        f"seed {found.horizon.seed}"
    )


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return ""
    low, high = np.quantile(values, (0.05, 0.95))
    return f" ({text.percent(low)} to {text.percent(high)} in 9 of 10 of {len(values)} replays)"


def _sites(found: Simulated) -> Iterator[str]:
    yield f"\n{'site':<16} {'nodes':>6} {'spares':>6} {'node MTBF':>12} {'failures':>9} {'goodput':>9}"
    for i, site in enumerate(found.job.sites):
        outcomes = [outcome.sites[i] for outcome in found.outcomes]
        failures = text.number(fmean(each.failures for each in outcomes))
        goodput = text.percent(fmean(each.goodput for each in outcomes))
        mtbf = text.duration(site.mtbf_s)
        yield f"{site.name:<16} {site.nodes:>6} {site.spares:>6} {mtbf:>12} {failures:>9} {goodput:>9}"
    if found.job.server_mtbf_s:
        failures = text.number(fmean(outcome.server_failures for outcome in found.outcomes))
        mtbf = text.duration(found.job.server_mtbf_s)
        yield f"{'(server)':<16} {1:>6} {'':>6} {mtbf:>12} {failures:>9}"


def _where(found: Simulated) -> Iterator[str]:
    total_s = found.horizon.days * DAY_S
    yield f"{'where the time went':<20} {'share':>9} {'of a site':>12}"
    for cause in ALL:
        spent_s = fmean(outcome.spent_s[cause] for outcome in found.outcomes)
        if spent_s:
            yield f"{cause:<20} {text.percent(spent_s / total_s):>9} {text.duration(spent_s):>12}"


def _advice(found: Simulated) -> Iterator[str]:
    job, advice = found.job, found.advice
    if advice.checkpoint_daly_s:
        daly = text.duration(advice.checkpoint_daly_s)
        now = text.duration(job.checkpoint_every_s) if job.checkpoint_every_s else "only at the end"
        best = f"{text.duration(advice.checkpoint_best_s)} is best here, " if advice.checkpoint_best_s else ""
        untried = "" if best else " (no node failed here: replay more days to try it)"
        yield f"checkpoint interval: {best}{daly} by Daly's formula{untried}; now {now}"
    elif job.mode != "none":
        yield (
            f"checkpoint interval: decides little here; a failed site takes up the published version and "
            f"loses its window of {job.inner_steps} steps of the fastest site"
        )
    if advice.goodput_formula is not None:
        yield f"Daly's formula: goodput {text.percent(advice.goodput_formula)}, with spares without end"
    attainable = text.percent(advice.goodput_attainable)
    yield f"spares: {advice.spares} at each site give 99 % of the {attainable} that spares without end would"


def _points(quantity: Quantity, points: list[Point]) -> Iterator[str]:
    yield f"{_AGAINST[quantity]:<38} {'goodput':>9}"
    for point in points:
        value = f"{point.value:g}" if quantity == "spares" else text.duration(point.value)
        yield f"{value:<38} {text.percent(point.goodput):>9}"


def _assumed(found: Simulated) -> Iterator[str]:
    """What the files do not say, so that nobody takes it for measured."""
    assumed, site = found.assumed, found.job.sites[0]
    if any(each.mtbf_s == assumed.mtbf for each in found.job.sites):
        source = " (Llama 3: 419 failures in 54 days on 2,048 nodes)" if assumed.mtbf == NODE_MTBF_S else ""
        yield f"assumed: a node fails every {text.duration(assumed.mtbf)}{source}"
    yield (
        f"assumed: {text.duration(assumed.detect)} to detect, {text.duration(assumed.restart)} to restart, "
        f"{text.duration(assumed.repair)} to repair a node"
    )
    yield (
        f"assumed: a checkpoint stops training for {text.duration(site.checkpoint_pause_s)} and can be "
        f"restored {text.duration(site.checkpoint_durable_s)} later "
        f"({assumed.copy} to memory, {assumed.write} to disk)"
    )
    if assumed.slow_per_day:
        yield (
            f"assumed: {assumed.slow_per_day:g} times a day a line is {assumed.slow_factor:g} times slower "
            f"for {text.duration(assumed.slow)}"
        )
