"""What the upcycling benchmark makes of its arms, and its chart."""

from xml.etree import ElementTree

import pytest

from isthmus_bench import upcycle
from isthmus_bench.upcycle import EQUAL, LONGER, NOISE, ON, SCRATCH, UPCYCLED, Measured, results
from isthmus_bench.upcycle.__main__ import chart
from isthmus_bench.upcycle.arms import Arm, Curve

LAST = {ON: 2.9, UPCYCLED: 2.8, EQUAL: 2.87, NOISE: 2.81, SCRATCH: 3.2, LONGER: 2.85}


@pytest.fixture
def measured() -> Measured:
    curves = {
        Arm(name, 100, 50, upcycle.PLAIN if name in (UPCYCLED, SCRATCH) else None, seed=seed): Curve(
            [6.0 if name == SCRATCH else 3.3, 3.25, last + 0.02 * seed * (name == ON)],
            [1.0, 0.95, 0.9] if name == UPCYCLED else [0.0, 0.01, 0.02],
        )
        for name, last in LAST.items()
        for seed in (0, 1)
    }
    return Measured(upcycle.QUICK, curves, {ON: {4e-3: 2.9}}, 1e-6)


def test_gains_are_means_over_the_seeds(measured):
    gain, logits, fall = results(measured)
    assert gain.value == pytest.approx(0.11)
    assert "by seed 0.1000, 0.1200" in gain.note
    assert gain.peers[SCRATCH] == pytest.approx(-0.29)
    assert logits.value == 1e-6
    assert fall.value == pytest.approx(0.1)


def test_the_chart_stands_alone(measured):
    root = ElementTree.fromstring(chart(measured))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert f"{UPCYCLED}: 2.80 at 51.2k" in titles
    assert f"{SCRATCH}: 6.00 at 0" not in titles, "the axis would have to reach up there"
