"""The page's section on a model's experts: how evenly they are loaded, and whether they grow apart."""

import math
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from isthmus.journal.experts import Column, Experts, LayerFigures, counting, evenness, layer_figures, relative
from isthmus.journal.view import RunView
from isthmus.ui import text
from isthmus.ui.report import html
from isthmus.ui.report.heat import Heat, Scale, diverging, heatmap, legend, rising
from isthmus.ui.report.svg import Axis, Point, Series, line_chart

BINS = 160
"""Most of them over the time of a run."""
MAX_DOTS = 16
"""Points of a line that are marked if there are no more."""
MAX_LAYERS = 6
"""Drawn one by one; of more, the most uneven ones."""
LOAD = diverging(4.0, never="never chosen")
LARGEST = Scale(place=LOAD.place, marks=LOAD.marks[2:])
SMALLEST = Scale(place=LOAD.place, marks=LOAD.marks[:3], never=LOAD.never)
DROPS = rising(0.2)
ENTROPY = rising(1.0, towards=-1)
NOTE = (
    "Loads are relative to an even share, which is 1, and like all values here those of all sites together. "
    "Dropped are the choices above an expert's capacity (in a dropless run, above the nominal one). The "
    "gate's entropy is relative to that of an even gate: 100 % is undecided, 0 % always one expert. "
    "Similarity is the mean cosine of the experts' weights: 1 is all alike. An expert is dead if lately, "
    "for about a minute, no token chose it."
)


class Bin(msgspec.Struct):
    """A stretch of time of all sites together, by MoE layer: sums, `entropy` and `coef` times the choices."""

    choices: float
    load: list[list[float]]
    dropped: list[float]
    entropy: list[float]
    coef: list[float]


def section(view: RunView, x: Axis) -> str:
    """The section as markup, empty for a dense model. x: the time axis, in seconds since the run started."""
    sites = counting(site.experts for site in view.sites.values())
    if not sites:
        return ""
    layers = layer_figures(sites)
    bins = binned(sites, view.started_s, view.last_s)
    shown = sorted(_most_uneven(layers, bins)[:MAX_LAYERS])
    is_part = len(shown) < len(layers)
    which = f": the {len(shown)} of {len(layers)} layers with dead experts or the most uneven loads"
    parts = [
        "<h2>Experts</h2>",
        _table(layers),
        f'<p class="note">{NOTE}</p>',
        _overview(layers, bins, x) if is_part else "",
        f"<h3>Load of each expert over an even share{which if is_part else ''}</h3>{legend(LOAD)}",
        '<div class="charts">',
        *(_layer_heat(bins, i, layers[i].layer, x) for i in shown),
        f'</div><h3>{"The same layers" if is_part else "Layers"} over time</h3><div class="charts">',
        *_lines(view, sites, layers, bins, shown, x),
        "</div>",
    ]
    return "".join(parts)


def binned(sites: Sequence[Experts], start_s: float, end_s: float) -> list[Bin | None]:
    """Equal parts of the time from start to end, about as long as a column; None where nothing is known.

    A column is shared out over the bins it reaches into.
    """
    lengths_s = [column.end_s - column.start_s for site in sites for column in site.columns]
    count = max(1, min(BINS, int((end_s - start_s) / max(median(lengths_s), 1e-9))))
    width_s = max(1e-9, (end_s - start_s) / count)
    bins: list[Bin | None] = [None] * count
    for column in (column for site in sites for column in site.columns):
        first = max(0.0, (column.start_s - start_s) / width_s)
        last = max(first, (column.end_s - start_s) / width_s)
        left = min(count - 1, int(first))
        for i in range(left, min(count, max(left + 1, math.ceil(last - 1e-9)))):
            share = (min(i + 1, last) - max(i, first)) / (last - first) if last > first else 1.0
            bins[i] = _with(bins[i], column, share)
    return bins


def _with(into: Bin | None, column: Column, share: float) -> Bin:
    if into is None:
        zeros = [0.0] * len(column.load)
        into = Bin(
            choices=0.0,
            load=[[0.0] * len(load) for load in column.load],
            dropped=[*zeros],
            entropy=[*zeros],
            coef=[*zeros],
        )
    weight = share * column.choices
    into.choices += weight
    for i, load in enumerate(column.load):
        into.load[i] = [sum_ + share * count for sum_, count in zip(into.load[i], load, strict=True)]
        into.dropped[i] += share * column.dropped[i]
        into.entropy[i] += weight * column.entropy[i]
        into.coef[i] += weight * column.coef[i]
    return into


def _most_uneven(layers: Sequence[LayerFigures], bins: Sequence[Bin | None]) -> list[int]:
    """Layers by their dead experts and their largest load, averaged over time, the largest first."""
    known = [each for each in bins if each]
    unevenness = [sum(max(relative(each.load[i])) for each in known) for i in range(len(known[0].load))]
    return sorted(range(len(unevenness)), key=lambda i: (-len(layers[i].dead), -unevenness[i]))


def _table(layers: Sequence[LayerFigures]) -> str:
    head = ("layer", "largest load", "smallest load", "drop rate", "coefficient", "gate entropy",
            "similarity", "dead experts")  # fmt: skip
    rows = [
        (
            str(of.layer),
            f"{of.max_load:.2f}",
            f"{of.min_load:.2f}",
            text.percent(of.drop_rate),
            f"{of.coef:.3g}",
            text.percent(of.entropy),
            text.ratio(of.similarity),
            _named(of.dead),
        )
        for of in layers
    ]
    table = f'<div class="panel scroll">{html.table(head, rows)}</div>'
    if len(rows) <= MAX_LAYERS:
        return table
    return f"<details><summary>The latest values of all {len(rows)} layers</summary>{table}</details>"


def _named(dead: Sequence[int]) -> str:
    more = f" and {len(dead) - 6} more" if len(dead) > 6 else ""
    return (", ".join(map(str, dead[:6])) + more) or "none"


def _layer_heat(bins: Sequence[Bin | None], i: int, layer: int, x: Axis) -> str:
    columns = [relative(each.load[i]) if each else None for each in bins]
    known = [each for each in columns if each]
    values = [[each[row] if each else math.nan for each in columns] for row in range(len(known[0]))]
    heat = Heat(
        values=values,
        rows=[str(row) for row in range(len(values))],
        titles=[
            f"expert {row}: {known[-1][row]:.2f} at the end, {min(at[row] for at in known):.2f} to "
            f"{max(at[row] for at in known):.2f} over time"
            for row in range(len(values))
        ],
        label=f"Load of the {len(values)} experts of layer {layer} over time, over an even share; "
        f"at the end {min(known[-1]):.2f} to {max(known[-1]):.2f}",
    )
    return html.figure(f"Layer {layer}, experts", heatmap(heat, x, LOAD))


def _overview(layers: Sequence[LayerFigures], bins: Sequence[Bin | None], x: Axis) -> str:
    kinds: list[tuple[str, Callable[[Bin, int], float], Scale, Callable[[float], str]]] = [
        ("Largest load", lambda of, i: max(relative(of.load[i])), LARGEST, lambda value: f"{value:.2f}"),
        ("Smallest load", lambda of, i: min(relative(of.load[i])), SMALLEST, lambda value: f"{value:.2f}"),
        ("Drop rate", _drop_rate, DROPS, text.percent),
        ("Gate entropy", _entropy, ENTROPY, text.percent),
    ]
    indices = range(len(layers))
    figures = []
    for title, of, scale, show in kinds:
        columns = [[of(each, i) if each else math.nan for i in indices] for each in bins]
        chart = _layers_heat(title, layers, columns, x, scale, show)
        figures.append(html.figure(title, chart + legend(scale)))
    return f'<h3>All layers</h3><div class="charts">{"".join(figures)}</div>'


def _layers_heat(title: str, layers: Sequence[LayerFigures], columns: Sequence[Sequence[float]], x: Axis,
                 scale: Scale, show: Callable[[float], str]) -> str:  # fmt: skip
    """columns: by time and layer"""
    values = list(zip(*columns, strict=True))
    known = [[value for value in row if not math.isnan(value)] for row in values]
    heat = Heat(
        values=values,
        rows=[str(of.layer) for of in layers],
        titles=[
            f"layer {of.layer}: {show(row[-1])} at the end, {show(min(row))} to {show(max(row))} over time"
            for of, row in zip(layers, known, strict=True)
        ],
        label=f"{title} of {len(layers)} layers over time",
    )
    return heatmap(heat, x, scale)


def _drop_rate(of: Bin, i: int) -> float:
    return of.dropped[i] / max(of.choices, 1e-9)


def _entropy(of: Bin, i: int) -> float:
    return evenness(of.entropy[i] / max(of.choices, 1e-9), len(of.load[i]))


def _coef(of: Bin, i: int) -> float:
    return of.coef[i] / max(of.choices, 1e-9)


def _lines(view: RunView, sites: Sequence[Experts], layers: Sequence[LayerFigures],
           bins: Sequence[Bin | None], shown: Sequence[int], x: Axis) -> list[str]:  # fmt: skip
    width_s = (view.last_s - view.started_s) / len(bins)
    key = [(f"layer {layers[i].layer}", _tint(at, len(shown))) for at, i in enumerate(shown)]

    def chart(title: str, points: Callable[[int], Sequence[Point]], y: Axis) -> str:
        series = [
            Series(name=name, colour=tint, points=points(i), dots=len(points(i)) <= MAX_DOTS)
            for i, (name, tint) in zip(shown, key, strict=True)
        ]
        return html.figure(title, line_chart(series, x, y), key)

    def over_time(of: Callable[[Bin, int], float], scale: float = 1.0) -> Callable[[int], Sequence[Point]]:
        return lambda i: [
            ((at + 0.5) * width_s, scale * of(each, i) if each else math.nan) for at, each in enumerate(bins)
        ]

    def similarity(i: int) -> Sequence[Point]:
        rows = sorted(row for site in sites for row in site.similarity.points())
        return [(row[0] - view.started_s, row[1 + i]) for row in rows]

    percent = Axis(show=lambda value: f"{value:.3g} %", low=0.0)
    small = Axis(show=lambda value: f"{value:.3g}", low=0.0)
    figures = [
        chart("Drop rate", over_time(_drop_rate, 100), percent),
        chart("Gate entropy over an even gate's", over_time(_entropy, 100), Axis(show=percent.show)),
    ]
    coefs = [_coef(each, i) for each in bins if each for i in shown]
    if max(coefs) - min(coefs) > 1e-3 * max(coefs):
        figures.append(chart("Weight of the balance loss", over_time(_coef), small))
    if any(site.last_similarity for site in sites):
        figures.append(chart("Similarity of the experts", similarity, Axis(show=small.show)))
    return figures


def _tint(i: int, count: int) -> str:
    """From blue, the first layer, over violet to orange, the last."""
    return f"hsl({215 + 175 * i / max(1, count - 1):.0f} 62% 54%)"
