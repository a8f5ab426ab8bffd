import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.units import Bandwidth, Bytes, Count, Seconds, exact

FLOATS = st.floats(min_value=0, allow_nan=False, allow_infinity=False, max_value=1e30)
INTS = st.integers(min_value=0, max_value=10**30)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Seconds, "30 ms", 0.03),
        (Seconds, "5min", 300),
        (Seconds, "1.5 h", 5400),
        (Bytes, "4 GiB", 4 * 2**30),
        (Bytes, "200 MB", 200_000_000),
        (Bandwidth, "1 Gbps", 1e9),
        (Bandwidth, "100 Mbit/s", 1e8),
        (Count, "2M", 2_000_000),
        (Count, "1_000", 1000),
        (Count, "1.5B", 1_500_000_000),
    ],
)
def test_text_with_a_unit_is_read(kind, text, value):
    assert kind.parse(text) == value
    assert type(kind.parse(text)) is kind


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Seconds, "30"),
        (Seconds, "30 mss"),
        (Seconds, "fast"),
        (Seconds, -1),
        (Seconds, math.nan),
        (Bandwidth, "1 GB"),
        (Bytes, True),
        (Count, math.inf),
        (Count, [1]),
    ],
)
def test_anything_else_is_refused(kind, value):
    with pytest.raises(ValueError, match=r"unit|quantity"):
        kind.parse(value)


def test_an_unknown_unit_names_those_that_are_known():
    with pytest.raises(ValueError, match=r"Mbps.*Mbit/s"):
        Bandwidth.parse("100 MB")


def test_shown_with_three_digits_written_exactly():
    assert str(Seconds(90)) == "1.5 min"
    assert exact(Seconds(90)) == "90 s"
    assert str(Bytes(4 * 2**30)) == "4.29 GB"
    assert exact(Count(2_000_000)) == "2M"
    assert exact(Bandwidth(1e8)) == "100 Mbps"
    assert exact(Seconds(0)) == "0 s"


@given(st.one_of(FLOATS.map(Seconds), FLOATS.map(Bandwidth), INTS.map(Bytes), INTS.map(Count)))
def test_exact_text_reads_back_as_the_same_value(quantity):
    again = type(quantity).parse(exact(quantity))
    assert again == quantity
    assert type(again) is type(quantity)


@given(st.one_of(FLOATS.map(Seconds), FLOATS.map(Bandwidth), INTS.map(Bytes), INTS.map(Count)))
def test_shown_text_is_close(quantity):
    assert type(quantity).parse(str(quantity)) == pytest.approx(quantity, rel=6e-3, abs=1e-9)
