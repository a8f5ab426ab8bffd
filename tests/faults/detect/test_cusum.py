"""The chart against simulation, and the design against published values."""

import random

import pytest

from isthmus.faults.detect.cusum import Chart, ChartSettings, decision_interval


def test_the_decision_interval_gives_the_run_length_of_the_tables():
    # Tables of Hawkins & Olwell 1998: one-sided with k = 0.5, h = 5 has a run length of about 930.
    assert decision_interval(0.5, 930) == pytest.approx(5.0, abs=0.05)
    assert decision_interval(0.5, 336) == pytest.approx(4.0, abs=0.06)


def chart_of(seed: int, sigma: float, shift: float, run_length: float = 1e4) -> tuple[Chart, random.Random]:
    draw = random.Random(seed)
    chart = Chart(ChartSettings(shift=shift, run_length=run_length))
    for _ in range(500):
        chart.add(draw.gauss(2.0, sigma))
    return chart, draw


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_is_found_and_its_end_too(sign):
    for seed in range(20):
        chart, draw = chart_of(seed, 0.1, sign * 0.2, run_length=1e6)
        assert not chart.shifted
        delay = next(n for n in range(100) if chart.add(draw.gauss(2.0 + sign * 0.2, 0.1)) == "shifted")
        assert delay < 40
        assert chart.size == pytest.approx(sign * 0.2, abs=0.1)
        assert not any(chart.add(draw.gauss(2.0 + sign * 0.2, 0.1)) == "back" for _ in range(200))
        assert any(chart.add(draw.gauss(2.0, 0.1)) == "back" for _ in range(60))


def test_false_alarms_are_as_rare_as_asked_for():
    alarms = 0
    for seed in range(10):
        chart, draw = chart_of(seed, 0.1, 0.2)
        for _ in range(10_000):
            alarms += chart.add(draw.gauss(2.0, 0.1)) == "shifted"
    assert alarms <= 20


def test_one_sample_of_any_size_is_no_shift():
    chart, draw = chart_of(1, 0.1, 0.2, run_length=1e6)
    for n in range(3000):
        assert chart.add(draw.gauss(2.0, 0.1) + (50.0 if n % 40 == 0 else 0.0)) == ""


def test_a_known_level_is_not_learnt():
    chart = Chart(ChartSettings(shift=0.2, level=0.0))
    draw = random.Random(3)
    said = [chart.add(draw.gauss(0.3, 0.05)) for _ in range(100)]
    assert "shifted" in said
    assert chart.level == 0.0
