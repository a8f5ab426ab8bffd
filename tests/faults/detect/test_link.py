"""Links that get worse, and links that are cut."""

import math
import random

import pytest

from isthmus.faults.detect import LinkSample, Readings
from isthmus.faults.detect.link import LinkDetector
from isthmus.faults.detect.standing import Standing


def sample(draw: random.Random, bandwidth: float = 1.0, rtt: float = 1.0, lost: float = 1.0) -> LinkSample:
    return LinkSample(
        bandwidth_mbps=500 * bandwidth * math.exp(draw.gauss(0, 0.15)),
        rtt_s=0.03 * rtt * math.exp(draw.gauss(0, 0.2)),
        retransmitted=0.004 * lost * math.exp(draw.gauss(0, 0.3)),
    )


def measured(new: LinkSample) -> Readings:
    return Readings(ranks=(), links={"a-b": new})


@pytest.mark.parametrize(
    ("change", "figure"),
    [({"bandwidth": 0.5}, "bandwidth"), ({"rtt": 2.0}, "round trip"), ({"lost": 8.0}, "retransmitted share")],
)
def test_what_got_worse_is_told_and_when_it_is_over(change, figure):
    for seed in range(5):
        draw, standing = random.Random(seed), Standing()
        detector = LinkDetector(standing)
        for n in range(300):
            assert detector.observe(n, measured(sample(draw))) == []
        found = [f for n in range(40) for f in detector.observe(n, measured(sample(draw, **change)))]
        assert [(f.kind, f.place) for f in found] == [("network_degraded", "a-b")]
        assert found[0].what.startswith(figure)
        for n in range(60):
            assert detector.observe(n, measured(sample(draw))) == []
        assert len(standing.take_ended()) == 1


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_measurements_with_outliers_raise_no_alarm(seed):
    draw, detector = random.Random(seed), LinkDetector(Standing())
    for n in range(10_000):
        odd = draw.random() < 0.01
        new = sample(draw, bandwidth=0.2 if odd else 1.0, rtt=5.0 if odd else 1.0, lost=10.0 if odd else 1.0)
        assert detector.observe(n, measured(new)) == []


def test_a_link_that_gets_better_is_no_fault():
    draw, detector = random.Random(1), LinkDetector(Standing())
    for n in range(600):
        better = 3.0 if n > 300 else 1.0
        assert detector.observe(n, measured(sample(draw, better, 1 / better, 1 / better))) == []


def words(detector: LinkDetector, now_s: float, heard_s: float):
    return detector.observe(now_s, Readings(ranks=(), heard_s={"a-b": heard_s}))


@pytest.mark.parametrize(("gap_s", "least_s"), [(0.1, 3.0), (0.5, 3.0), (2.0, 12.0)])
def test_a_cut_is_silence_far_beyond_the_usual(gap_s, least_s):
    standing = Standing()
    detector = LinkDetector(standing)
    end_s = 200 * gap_s
    for n in range(round(end_s / 0.05)):
        assert words(detector, n * 0.05, n * 0.05 // gap_s * gap_s) == []
    found = [f for n in range(2000) for f in words(detector, end_s + n * 0.05, end_s)]
    assert [(f.kind, f.place, f.lasting, f.began_s) for f in found] == [("partition", "a-b", False, end_s)]
    assert found[0].seen_s - end_s == pytest.approx(least_s, abs=0.2 * least_s)
    assert words(detector, end_s + 101, end_s + 101) == []
    assert len(standing.take_ended()) == 1


def test_a_link_that_is_given_up_is_no_longer_cut():
    standing = Standing()
    detector = LinkDetector(standing)
    assert [*words(detector, 0.0, 0.0), *words(detector, 4.0, 0.0)]
    detector.observe(5.0, Readings(ranks=()))
    assert standing.found() == ()
