"""Charts as inline SVG, drawn here so that the page needs no script and no network."""

import math
from collections.abc import Callable, Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 560.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 12.0, 30.0
LANE_WIDTH, LANE_LEFT, LANE_HEIGHT = 1140.0, 92.0, 34.0
NAME_LEFT, CHARACTER = 220.0, 7.6
"""Most room for a lane's name; what a character of it takes."""
HOVER_POINTS = 80
_TIME_STEPS_S = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    14400,
    43200,
    86400,
)

Point = tuple[float, float]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """`colour`: as CSS has it. A NaN breaks the line. `dots` marks each point, `faint` draws it thin."""

    name: str
    colour: str
    points: Sequence[Point]
    dots: bool = False
    faint: bool = False


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """`low` and `high` of None fit the data. `time`: ticks at whole seconds, minutes, hours."""

    show: Callable[[float], str]
    low: float | None = None
    high: float | None = None
    time: bool = False


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of an x axis; `lane` is ignored by line charts, where it is a shaded band."""

    start: float
    end: float
    title: str
    kind: str
    """A CSS class: 'bad', 'warn', 'present'"""
    lane: int = 0


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    lane: int
    at: float
    title: str
    kind: str


class _Scale(msgspec.Struct, frozen=True):
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int, time: bool = False) -> list[float]:
    """Round numbers between low and high, about `count` of them."""
    wanted = (high - low) / max(1, count)
    if wanted <= 0:
        return [low]
    if time and wanted <= _TIME_STEPS_S[-1]:
        step = next(step for step in _TIME_STEPS_S if step >= wanted)
    else:
        magnitude = 10.0 ** math.floor(math.log10(wanted))
        step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= wanted * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(series: Sequence[Series], x: Axis, y: Axis, bands: Sequence[Bar] = ()) -> str:
    """Lines over a grid. Hovering over a point shows its values."""
    points = [point for line in series for point in line.points if math.isfinite(point[0] + point[1])]
    if not points:
        return '<p class="empty">nothing to show yet</p>'
    across = _fit(x, [point[0] for point in points], LEFT, WIDTH - RIGHT, pad=0.0)
    up = _fit(y, [point[1] for point in points], HEIGHT - BOTTOM, TOP, pad=0.06)
    parts = [_band(bar, across) for bar in bands]
    parts += [_horizontal(up(value), y.show(value)) for value in ticks(up.low, up.high, 4)]
    parts += [_vertical(across(value), x.show(value)) for value in ticks(across.low, across.high, 6, x.time)]
    for line in series:
        parts.append(_path(line, across, up))
    for line in series:
        if not line.faint:
            parts += _hover(line, across, up, x, y)
    return f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img">{"".join(parts)}</svg>'


def lane_chart(
    lanes: Sequence[str], bars: Sequence[Bar], marks: Sequence[Mark], x: Axis, exact: bool = False
) -> str:
    """Swim lanes: a row per name, stretches of time as bars, moments as ticks.

    `exact`: bars are as wide as they last and touch; otherwise the shortest can still be seen.
    """
    least, corner, digits = (0.0, 0, 2) if exact else (2.5, 3, 1)
    height = len(lanes) * LANE_HEIGHT + BOTTOM + TOP
    low, high = x.low or 0.0, x.high or 1.0
    margin = min(NAME_LEFT, max(LANE_LEFT, 12 + CHARACTER * max(map(len, lanes), default=0)))
    across = _Scale(low, max(high, low + 1e-9), margin, LANE_WIDTH - RIGHT)
    parts = [
        f'<line class="grid" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="{TOP:g}" '
        f'y2="{height - BOTTOM:.1f}"/><text class="tick" text-anchor="middle" x="{across(value):.1f}" '
        f'y="{height - 10:.1f}">{escape(x.show(value))}</text>'
        for value in ticks(across.low, across.high, 10, x.time)
    ]
    for i, name in enumerate(lanes):
        middle = TOP + (i + 0.5) * LANE_HEIGHT
        parts.append(f'<text class="lane" x="{margin - 12:g}" y="{middle + 4:.1f}">{escape(name)}</text>')
    for bar in bars:
        top = TOP + bar.lane * LANE_HEIGHT + 8
        left, right = across(max(bar.start, low)), across(min(bar.end, high))
        parts.append(
            f'<rect class="bar {bar.kind}" x="{left:.{digits}f}" y="{top:.1f}" '
            f'width="{max(least, right - left):.{digits}f}" height="{LANE_HEIGHT - 16:g}" rx="{corner}">'
            f"<title>{escape(bar.title)}</title></rect>"
        )
    for mark in marks:
        top, at = TOP + mark.lane * LANE_HEIGHT + 6, across(mark.at)
        parts.append(
            f'<rect class="mark {mark.kind}" x="{at - 1.25:.1f}" y="{top:.1f}" width="2.5" '
            f'height="{LANE_HEIGHT - 12:g}" rx="1"><title>{escape(mark.title)}</title></rect>'
        )
    return f'<svg viewBox="0 0 {LANE_WIDTH:g} {height:g}" role="img">{"".join(parts)}</svg>'


def _fit(axis: Axis, values: Sequence[float], start: float, end: float, pad: float) -> _Scale:
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if high <= low:
        high = low + (abs(low) or 1.0)
    room = (high - low) * pad
    return _Scale(low if axis.low is not None else low - room, high + room, start, end)


def _horizontal(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{LEFT - 8:g}" y="{y + 4:.1f}">{escape(label)}</text>'
    )


def _vertical(x: float, label: str) -> str:
    foot = HEIGHT - BOTTOM
    return (
        f'<line class="stub" x1="{x:.1f}" x2="{x:.1f}" y1="{foot:g}" y2="{foot + 4:g}"/>'
        f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - 10:g}">{escape(label)}</text>'
    )


def _band(bar: Bar, across: _Scale) -> str:
    left, right = across(max(bar.start, across.low)), across(min(bar.end, across.high))
    return (
        f'<rect class="band {bar.kind}" x="{left:.1f}" y="{TOP:g}" width="{max(1.5, right - left):.1f}" '
        f'height="{HEIGHT - BOTTOM - TOP:g}"><title>{escape(bar.title)}</title></rect>'
    )


def _path(line: Series, across: _Scale, up: _Scale) -> str:
    steps: list[str] = []
    pen = "M"
    for x, y in line.points:
        if not math.isfinite(x + y):
            pen = "M"
            continue
        steps.append(f"{pen}{across(x):.1f} {_clamped(up, y):.1f}")
        pen = "L"
    kind = "line faint" if line.faint else "line"
    return f'<path class="{kind}" style="stroke:{line.colour}" d="{"".join(steps)}"/>'


def _hover(line: Series, across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    finite = [point for point in line.points if math.isfinite(point[0] + point[1])]
    stride = 1 if line.dots else max(1, -(-len(finite) // HOVER_POINTS))
    kind = "dot" if line.dots else "hit"
    return [
        f'<circle class="{kind}" style="fill:{line.colour}" cx="{across(px):.1f}" '
        f'cy="{_clamped(up, py):.1f}" r="{3 if line.dots else 5}">'
        f"<title>{escape(f'{line.name}: {y.show(py)} at {x.show(px)}')}</title></circle>"
        for px, py in finite[::stride]
    ]


def _clamped(scale: _Scale, value: float) -> float:
    return scale(min(max(value, scale.low), scale.high))
