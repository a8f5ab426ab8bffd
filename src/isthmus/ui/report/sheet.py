"""Charts as an SVG file that stands alone: lines side by side, or swim lanes."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from isthmus.ui.report.svg import (
    BOTTOM,
    HEIGHT,
    LANE_HEIGHT,
    LANE_WIDTH,
    LEFT,
    TOP,
    WIDTH,
    Axis,
    Bar,
    Series,
    lane_chart,
    line_chart,
)

HEAD = 52.0
GAP = 20.0
COLOURS = ("#d9761a", "#2a6fdb", "#7a6a5e", "#2e9e6b", "#8b5cd6")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#62676f}.title{font-size:14px;font-weight:600;fill:#1c1e21}"
    ".grid{stroke:#ecece8}.stub{stroke:#62676f;opacity:.5}.dot{stroke:#fff}"
    ".lane{text-anchor:end}.bar{fill:#2a6fdb}.bar.bad{fill:#c8372d}.line.faint{stroke-width:1;opacity:.5}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}"
)


class Panel(NamedTuple):
    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis


def sheet(panels: Sequence[Panel]) -> str:
    """The first panel's lines are named at the top; the others use the same colours."""
    width, height = len(panels) * (WIDTH + GAP), HEAD + HEIGHT
    parts = [
        f'<g transform="translate({index * (WIDTH + GAP):g} 0)">'
        f'<text class="title" x="{LEFT:g}" y="20">{escape(panel.title)}</text>'
        f'<g transform="translate(0 {HEAD:g})">{_inside(line_chart(panel.series, panel.x, panel.y))}</g></g>'
        for index, panel in enumerate(panels)
    ]
    return _standing(f"{_legend(panels[0].series)}{''.join(parts)}", width, height)


def lane_sheet(title: str, lanes: Sequence[str], bars: Sequence[Bar], x: Axis) -> str:
    """A row for each name, stretches of time as bars."""
    chart = _inside(lane_chart(lanes, bars, (), x))
    head = f'<text class="title" x="12" y="20">{escape(title)}</text>'
    height = HEAD / 2 + len(lanes) * LANE_HEIGHT + BOTTOM + TOP
    return _standing(f'{head}<g transform="translate(0 {HEAD / 2:g})">{chart}</g>', LANE_WIDTH, height)


def _standing(inside: str, width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{inside}</svg>\n'
    )


def _inside(chart: str) -> str:
    """Without the <svg> around it, as it has no size of its own."""
    return chart.partition(">")[2].removesuffix("</svg>")


def _legend(series: Sequence[Series]) -> str:
    parts: list[str] = []
    x = LEFT
    for line in series:
        parts.append(f'<rect x="{x:g}" y="36" width="12" height="3" fill="{line.colour}"/>')
        parts.append(f'<text x="{x + 18:g}" y="42">{escape(line.name)}</text>')
        x += 32 + 6.4 * len(line.name)
    return "".join(parts)
