"""Offsets between wall clocks from requests and answers."""

import random

import pytest

from isthmus.faults.detect.clock_skew import ClockDetector, Offset
from isthmus.faults.detect.standing import Standing


def observe(detector: ClockDetector, offset_s: float, there_s: float = 0.02, back_s: float = 0.02):
    """A ping that finds the other clock half way, as it believes."""
    seen_s = offset_s + (there_s - back_s) / 2
    return detector.observe(1.0, "n", Offset(seen_s, there_s + back_s))


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
