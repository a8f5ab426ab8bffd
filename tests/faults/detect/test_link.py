"""Links that get worse."""

import math
import random

import pytest

from isthmus.faults.detect.link import LinkDetector, LinkSample
from isthmus.faults.detect.standing import Standing


def sample(draw: random.Random, bandwidth: float = 1.0, rtt: float = 1.0, lost: float = 1.0) -> LinkSample:
    return LinkSample(
        up_mbps=500 * bandwidth * math.exp(draw.gauss(0, 0.15)),
        down_mbps=300 * math.exp(draw.gauss(0, 0.15)),
        rtt_s=0.03 * rtt * math.exp(draw.gauss(0, 0.2)),
        retransmitted=0.004 * lost * math.exp(draw.gauss(0, 0.3)),
    )


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"bandwidth": 0.5}, "bandwidth up"),
        ({"rtt": 2.0}, "round trip"),
        ({"lost": 8.0}, "retransmitted share"),
    ],
)
def test_what_got_worse_is_told_and_when_it_is_over(change, figure):
    for seed in range(5):
        draw, standing = random.Random(seed), Standing()
        detector = LinkDetector(standing)
        for n in range(300):
            assert detector.observe(n, "a-b", sample(draw)) == []
        found = [f for n in range(40) for f in detector.observe(n, "a-b", sample(draw, **change))]
        assert [(f.kind, f.place) for f in found] == [("network_degraded", "a-b")]
        assert found[0].what.startswith(figure)
        for n in range(60):
            assert detector.observe(n, "a-b", sample(draw)) == []
        assert len(standing.take_ended()) == 1


def test_a_link_is_degraded_once_until_all_of_its_figures_are_back():
    draw, standing = random.Random(2), Standing()
    detector = LinkDetector(standing)
    for n in range(100):
        detector.observe(n, "a-b", sample(draw))
    found = [f for n in range(40) for f in detector.observe(n, "a-b", sample(draw, 0.4, 3.0, 8.0))]
    assert len(found) == 1
    for n in range(60):
        assert detector.observe(n, "a-b", sample(draw, rtt=3.0)) == []
    assert standing.take_ended() == []
    for n in range(60):
        assert detector.observe(n, "a-b", sample(draw)) == []
    assert len(standing.take_ended()) == 1


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_measurements_with_outliers_raise_no_alarm(seed):
    draw, detector = random.Random(seed), LinkDetector(Standing())
    for n in range(10_000):
        odd = draw.random() < 0.01
        new = sample(draw, bandwidth=0.2 if odd else 1.0, rtt=5.0 if odd else 1.0, lost=10.0 if odd else 1.0)
        assert detector.observe(n, "a-b", new) == []


def test_a_link_that_gets_better_is_no_fault():
    draw, detector = random.Random(1), LinkDetector(Standing())
    for n in range(600):
        better = 3.0 if n > 300 else 1.0
        assert detector.observe(n, "a-b", sample(draw, better, 1 / better, 1 / better)) == []


def test_what_the_machines_set_is_no_matter_of_the_link():
    draw, detector = random.Random(3), LinkDetector(Standing())
    for n in range(600):
        slower = 5.0 if n > 300 else 1.0
        new = LinkSample(up_mbps=9000 / slower * math.exp(draw.gauss(0, 0.15)), rtt_s=0.002 * slower)
        assert detector.observe(n, "a-b", new) == []
