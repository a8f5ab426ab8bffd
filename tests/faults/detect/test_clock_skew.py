"""Offsets between wall clocks from requests and answers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.faults.detect import ClockSample, NodeFacts, Readings
from isthmus.faults.detect.clock_skew import ClockDetector, clock_offset
from isthmus.faults.detect.standing import Standing

DELAY = st.floats(0.0, 2.0)


def exchange(sent_s: float, offset_s: float, there_s: float, back_s: float) -> ClockSample:
    arrived_s = sent_s + there_s + offset_s
    answered_s = arrived_s + 0.001
    return ClockSample(sent_s, arrived_s, answered_s, answered_s - offset_s + back_s)


@given(st.floats(-100, 100), DELAY, DELAY)
def test_an_offset_is_right_to_half_the_way(offset_s, there_s, back_s):
    found = clock_offset(exchange(1e9, offset_s, there_s, back_s))
    assert found.delay_s == pytest.approx(there_s + back_s, abs=1e-6)
    assert abs(found.offset_s - offset_s) <= found.delay_s / 2 + 1e-6


def observe(detector: ClockDetector, offset_s: float, there_s: float = 0.02, back_s: float = 0.02):
    clock = exchange(1e9, offset_s, there_s, back_s)
    return detector.observe(1.0, Readings(ranks=(), nodes={"n": NodeFacts(clock=clock)}))


def test_a_clock_that_is_off_is_told_once_and_when_it_is_right_again():
    standing = Standing()
    detector = ClockDetector(standing)
    found = [f for _ in range(20) for f in observe(detector, -0.8)]
    assert [(f.kind, f.place, "off by -0.8" in f.what) for f in found] == [("config", "n", True)]
    found = [f for _ in range(20) for f in observe(detector, 0.0)]
    assert ["jumped by +0.8" in f.what for f in found] == [True]
    assert len(standing.take_ended()) == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_way_that_is_long_in_one_direction_is_no_offset(seed):
    draw, detector = random.Random(seed), ClockDetector(Standing())
    for _ in range(5000):
        there_s, back_s = draw.expovariate(1 / 0.05), draw.expovariate(1 / 0.05)
        if draw.random() < 0.1:
            there_s += draw.random() * 3
        assert observe(detector, 0.1, there_s, back_s) == []
