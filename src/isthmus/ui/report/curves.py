"""From a RunView to the points of the report's curves. Times are seconds since the run started."""

import bisect
from collections.abc import Callable, Sequence
from itertools import pairwise

from isthmus.journal.curve import Row
from isthmus.journal.view import RunView, SiteView
from isthmus.ui.report.svg import Point

BINS = 90
SMOOTHING_POINTS = 12


def loss_over_time(view: RunView, site: SiteView) -> list[Point]:
    return [(row[0] - view.started_s, row[2]) for row in site.curve.points()]


def loss_over_tokens(view: RunView, site: SiteView) -> list[Point]:
    """Against the tokens that all sites had trained by then, so that the sites can be compared."""
    return _by_tokens(view, site.curve.points())


def held_out_over_tokens(view: RunView, site: SiteView) -> list[Point]:
    return _by_tokens(view, site.held_out.points())


def _by_tokens(view: RunView, rows: Sequence[Row]) -> list[Point]:
    trained = [_interpolated(site.curve.points(), 1) for site in view.sites.values() if site.steps]
    return [(sum(at(row[0]) for at in trained), row[2]) for row in rows]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean over up to `SMOOTHING_POINTS` points around each, fewer at the ends, so that nothing lags."""
    out: list[Point] = []
    for i, (x, _) in enumerate(points):
        reach = min(SMOOTHING_POINTS // 2, i // 3, len(points) - 1 - i)
        around = [y for _, y in points[i - reach : i + reach + 1]]
        out.append((x, sum(around) / len(around)))
    return out


def rate(view: RunView, rows: Sequence[Row], column: int, scale: float = 1.0) -> list[Point]:
    """What a summed column gains per second, in equal bins over the time from the first to the last row."""
    if len(rows) < 2:
        return []
    at = _interpolated(rows, column)
    start_s, end_s = rows[0][0], rows[-1][0]
    width_s = (end_s - start_s) / max(1, min(BINS, len(rows) // 2))
    if width_s <= 0:
        return []
    edges = [start_s + i * width_s for i in range(1 + round((end_s - start_s) / width_s))]
    return [
        ((left + right) / 2 - view.started_s, scale * (at(right) - at(left)) / width_s)
        for left, right in pairwise(edges)
    ]


def column(view: RunView, rows: Sequence[Row], index: int) -> list[Point]:
    return [(row[0] - view.started_s, row[index]) for row in rows]


def _interpolated(rows: Sequence[Row], column: int) -> Callable[[float], float]:
    """The column as a function of time, straight between rows, level outside them."""
    times = [row[0] for row in rows]

    def at(time_s: float) -> float:
        right = bisect.bisect_right(times, time_s)
        if right == 0:
            return 0.0 if time_s < times[0] else rows[0][column]
        if right == len(rows):
            return rows[-1][column]
        (t0, v0), (t1, v1) = ((rows[i][0], rows[i][column]) for i in (right - 1, right))
        return v0 + (v1 - v0) * (time_s - t0) / (t1 - t0) if t1 > t0 else v1

    return at
