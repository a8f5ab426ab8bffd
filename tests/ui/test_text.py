"""Numbers as people read them."""

import math

import pytest

from isthmus.ui import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (412, "412"), (0.0624, "0.062"), (3.14159, "3.14"), (12.34, "12.3"), (999.6, "1.00k"),
        (3_534_848, "3.53M"), (1e9, "1.00G"), (2.5e12, "2.50T"), (-1500, "-1.50k"), (1e-6, "1e-06"),
        (math.nan, text.NONE), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_number(value: float, shown: str):
    assert text.number(value) == shown


def test_quantities():
    assert text.size(25_985_432) == "26.0 MB"
    assert text.size(12) == "12 B"
    assert text.bandwidth(95e6) == "95.0 Mbit/s"
    assert text.bandwidth(0) == text.NONE
    assert text.percent(0.000493) == "0.05 %"
    assert text.percent(0.5) == "50.0 %"
    assert [text.duration(s) for s in (0.0312, 7.7, 185, 7300, 90000)] == [
        "31.2 ms", "7.7 s", "3 min 05 s", "2 h 01 min", "1 d 1 h"
    ]  # fmt: skip
    assert text.duration(None) == text.loss(math.nan) == text.ratio(None) == text.NONE
