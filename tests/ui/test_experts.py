"""The report's section on experts, and its heatmaps."""

import math
import struct
import zlib
from xml.etree import ElementTree

import pytest

from isthmus.journal.experts import Column, Experts
from isthmus.ui.report.experts import binned
from isthmus.ui.report.heat import Heat, diverging, heatmap, legend, png, rising
from isthmus.ui.report.svg import Axis

TIME = Axis(show=str, low=0.0, high=10.0, time=True)


def unpacked(image: bytes) -> tuple[int, int, bytes]:
    """(width, height, the filtered rows) of a PNG whose chunks' checksums are right."""
    at, found = 8, {}
    while at < len(image):
        length, kind = struct.unpack_from(">I4s", image, at)
        body = image[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", image, at + 8 + length)[0]
        found[kind], at = body, at + 12 + length
    return *struct.unpack_from(">II", found[b"IHDR"]), zlib.decompress(found[b"IDAT"])


def test_an_image_holds_its_indices():
    image = png([bytes([0, 1, 2]), bytes([2, 1, 0])], [(1, 2, 3, 0), (4, 5, 6, 7), (8, 9, 10, 255)])
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert unpacked(image) == (3, 2, b"\0\0\1\2\0\2\1\0")


def test_a_heatmap_leaves_out_what_is_not_known():
    heat = Heat(
        values=[[math.nan, 1.0, math.nan, 4.0]] * 3, rows=list("abc"), titles=list("xyz"), label="<l>"
    )
    chart = ElementTree.fromstring(heatmap(heat, TIME, diverging(4.0, never="never")))
    assert [float(rect.attrib["width"]) for rect in chart.iter("rect") if rect.get("class") == "ground"] == [
        pytest.approx((560 - 52 - 14) / 4, abs=0.01)
    ] * 2
    assert [title.text for title in chart.iter("title")] == ["x", "y", "z"]
    assert chart.attrib["aria-label"] == "<l>"


def test_scales_meet_the_pages_colour_at_an_even_share_and_at_nothing():
    load = diverging(4.0, never="never chosen")
    assert [load.place(ratio) for ratio in (0.0, 0.25, 1.0, 2.0, 4.0)] == [-1.0, -1.0, 0.0, 0.5, 1.0]
    assert [label for _, label in load.marks] == ["0.25", "0.5", "1", "2", "4"]
    assert [place for place, _ in rising(0.2, towards=-1).marks] == [0.0, -0.5, -1.0]
    assert "never chosen" in legend(load)
    assert "never" not in legend(rising(0.2))


def test_a_column_is_shared_out_over_the_bins_it_reaches_into():
    def column(start_s: float, end_s: float) -> Column:
        return Column(
            start_s=start_s, end_s=end_s, load=((30, 10),), dropped=(4,), entropy=(0.5,), coef=(0.1,)
        )

    site = Experts(layers=(0,), columns=(column(0.0, 10.0), column(10.0, 20.0), column(35.0, 45.0)))
    bins = binned([site, Experts(layers=(0,), columns=(column(5.0, 15.0),))], 0.0, 50.0)
    assert [each.choices if each else None for each in bins] == [60.0, 60.0, None, 20.0, 20.0]
    assert sum(each.load[0][0] for each in bins if each) == pytest.approx(4 * 30)
    assert sum(each.dropped[0] for each in bins if each) == pytest.approx(4 * 4)
    assert [each.entropy[0] / each.choices for each in bins if each] == pytest.approx([0.5] * 4)
