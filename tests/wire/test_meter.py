"""What a link measures of itself."""

import pytest

from isthmus.wire.meter import RateMeter, RttMeter


def carried(meter: RateMeter, start_s: float, duration_s: float, num_bytes: int) -> None:
    meter.begin(start_s)
    meter.end(start_s + duration_s, num_bytes)


def test_fresh_rates_are_those_since_the_last_call_of_transfers_that_took_a_while():
    meter = RateMeter()
    assert meter.take_fresh() is None
    carried(meter, 0.0, 0.05, 10_000_000)
    assert meter.take_fresh() is None
    for n, num_bytes in enumerate((1_000_000, 3_000_000, 2_000_000)):
        carried(meter, 1.0 + n, 0.4, num_bytes)
    assert meter.take_fresh() == pytest.approx(40e6)
    assert meter.take_fresh() is None


def test_of_fresh_round_trips_the_shortest_counts_with_the_offset_it_shows():
    meter = RttMeter()
    assert meter.take_fresh() is None
    meter.add(0.04, 0.2)
    meter.add(0.03, 0.1)
    meter.add(0.01)
    assert meter.take_fresh() == (0.03, 0.1)
    assert meter.take_fresh() is None
    assert meter.least_s == 0.01
