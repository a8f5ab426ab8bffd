"""Heatmaps over time, drawn as a small PNG inside SVG: its colours are laid over the page's own, so that one
picture serves light and dark.
"""

import base64
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

import msgspec

from isthmus.ui.report.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, ticks

LEVELS = 12
"""Shades to each side of a scale's middle."""
MAX_ROW_HEIGHT, MIN_ROW_HEIGHT, MAX_HEIGHT = 18.0, 1.5, 180.0
ROW_LABELS = 8
MAX_TITLES = 64
"""Rows that say more when pointed at."""
HIGH, LOW, NEVER = (0xE0, 0x5A, 0x17), (0x2A, 0x74, 0xE0), (0x9B, 0x2F, 0xAE)
_FADING = 0.75
"""Below 1 small differences show more."""

Rgba = tuple[int, int, int, int]
Box = tuple[float, float, float, float]
"""x, y, width, height"""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What a value's colour is: `place` puts it between -1 and 1, where 0 is the colour of the page."""

    place: Callable[[float], float]
    marks: Sequence[tuple[float, str]]
    """(place, label) for the legend"""
    never: str = ""
    """Label of values that are 0, where those have a colour of their own."""


class Heat(msgspec.Struct, frozen=True, kw_only=True):
    """values: rows of equal length, the first on top, over equal parts of the x axis; NaN: nothing known."""

    values: Sequence[Sequence[float]]
    rows: Sequence[str]
    titles: Sequence[str]
    label: str
    """What it shows in words, for who cannot see it."""


def heatmap(heat: Heat, x: Axis, scale: Scale) -> str:
    count = len(heat.rows)
    step = max(MIN_ROW_HEIGHT, min(MAX_ROW_HEIGHT, MAX_HEIGHT / count))
    width, height = WIDTH - LEFT - RIGHT, step * count
    parts = [
        _box("rect", (LEFT + start * width, TOP, (end - start) * width, height), 'class="ground"')
        for start, end in _known(heat.values)
    ]
    picture = f'preserveAspectRatio="none" href="{_picture(heat.values, scale)}"'
    parts.append(_box("image", (LEFT, TOP, width, height), picture))
    for i in range(0, count, -(-count // ROW_LABELS)):
        parts.append(_text(LEFT - 8, TOP + (i + 0.5) * step + 4, "end", heat.rows[i]))
    parts += _times(x, TOP + height)
    if count <= MAX_TITLES:
        parts += [
            _box(
                "rect", (LEFT, TOP + i * step, width, step), 'class="row"', f"<title>{escape(title)}</title>"
            )
            for i, title in enumerate(heat.titles)
        ]
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {TOP + height + BOTTOM:g}" role="img" '
        f'aria-label="{escape(heat.label)}">{"".join(parts)}</svg>'
    )


def _times(x: Axis, foot: float) -> list[str]:
    low, high = x.low or 0.0, x.high or 1.0
    parts = []
    for value in ticks(low, high, 6, x.time):
        at = LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<line class="stub" x1="{at:.1f}" x2="{at:.1f}" y1="{foot:g}" y2="{foot + 4:g}"/>')
        parts.append(_text(at, foot + 20, "middle", x.show(value)))
    return parts


def legend(scale: Scale) -> str:
    """A bar of the scale's colours with its marks."""
    low, high = scale.marks[0][0], scale.marks[-1][0]
    shades = [_css(_shade(low + (high - low) * i / (2 * LEVELS))) for i in range(2 * LEVELS + 1)]
    bar = f'<div class="bar" style="background-image:linear-gradient(90deg,{",".join(shades)})"></div>'
    marks = "".join(f"<span>{escape(label)}</span>" for _, label in scale.marks)
    tint = _css((*NEVER, 255))
    never = f'<span><i style="background:{tint}"></i>{escape(scale.never)}</span>' if scale.never else ""
    return f'<div class="scale"><div>{bar}<div class="marks">{marks}</div></div>{never}</div>'


def diverging(most: float, never: str = "") -> Scale:
    """For ratios: from 1/most over 1, the colour of the page, to most, in equal steps of the logarithm."""

    def place(value: float) -> float:
        return math.log(value) / math.log(most) if value > 0 else -1.0

    half = math.sqrt(most)
    shown = (1 / most, 1 / half, 1.0, half, most)
    return Scale(place=place, marks=[(place(v), f"{v:.3g}") for v in shown], never=never)


def rising(most: float, towards: int = 1) -> Scale:
    """For shares: from 0, the colour of the page, to most. towards: 1 or -1, whose colour it takes."""

    def place(value: float) -> float:
        return towards * value / most

    return Scale(place=place, marks=[(place(v), f"{100 * v:.0f} %") for v in (0.0, most / 2, most)])


def png(indices: Sequence[bytes], palette: Sequence[Rgba]) -> bytes:
    """An image of palette indices, a row each (PNG specification, colour type 3)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", len(indices[0]), len(indices), 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in indices), 9)
    return b"".join([
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", header),
        chunk(b"PLTE", b"".join(bytes(colour[:3]) for colour in palette)),
        chunk(b"tRNS", bytes(colour[3] for colour in palette)),
        chunk(b"IDAT", pixels),
        chunk(b"IEND", b""),
    ])  # fmt: skip


def _known(values: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Stretches of the x axis, as shares of it, for which there are values."""
    known = [not all(map(math.isnan, column)) for column in zip(*values, strict=True)]
    edges = [i for i, pair in enumerate(pairwise([False, *known, False])) if pair[0] != pair[1]]
    return [
        (start / len(known), end / len(known)) for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _picture(values: Sequence[Sequence[float]], scale: Scale) -> str:
    palette = [*(_shade(i / LEVELS - 1) for i in range(2 * LEVELS + 1)), (*NEVER, 255), (0, 0, 0, 0)]
    never, unknown = len(palette) - 2, len(palette) - 1

    def index(value: float) -> int:
        if math.isnan(value):
            return unknown
        if not value and scale.never:
            return never
        return round(LEVELS * (1 + min(1.0, max(-1.0, scale.place(value)))))

    image = png([bytes(map(index, row)) for row in values], palette)
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _shade(place: float) -> Rgba:
    return (*(HIGH if place > 0 else LOW), round(255 * abs(place) ** _FADING))


def _css(colour: Rgba) -> str:
    return f"#{bytes(colour).hex()}"


def _box(tag: str, box: Box, more: str, inside: str = "") -> str:
    places = " ".join(
        f'{name}="{value:.2f}"' for name, value in zip(("x", "y", "width", "height"), box, strict=True)
    )
    return f"<{tag} {places} {more}>{inside}</{tag}>"


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
