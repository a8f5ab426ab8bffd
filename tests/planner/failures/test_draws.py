"""Chance that is the same for whatever is compared, and the closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.planner.failures.draws import episodes, strikes
from isthmus.planner.failures.formulas import daly_interval_s, expected_goodput, young_interval_s
from isthmus.planner.failures.pace import line_of, micros

RATES = st.floats(1e-9, 1e-2)
END_S = 1e5


@given(seed=st.integers(0, 2**40), rate=RATES, part=st.floats(0, 1))
def test_a_lower_rate_leaves_out_failures_and_moves_none(seed, rate, part):
    few, many = (strikes(seed, "site a", each, END_S) for each in (part * rate, rate))
    pairs = [set(zip(each.times_s.tolist(), each.marks.tolist(), strict=True)) for each in (few, many)]
    assert pairs[0] <= pairs[1]
    assert (np.diff(many.times_s) >= 0).all()
    assert ((many.times_s >= 0) & (many.times_s < END_S)).all()
    assert ((many.marks >= 0) & (many.marks < 1)).all()


@given(seed=st.integers(0, 1000), rate=RATES, part=st.floats(0.01, 1))
def test_a_later_end_goes_on_where_an_earlier_one_stops(seed, rate, part):
    short, long = (strikes(seed, "site a", rate, end) for end in (part * END_S, END_S))
    assert long.times_s[: len(short.times_s)].tolist() == short.times_s.tolist()
    assert (long.times_s[len(short.times_s) :] >= part * END_S).all()


@pytest.mark.parametrize("rate", [1.0, 0.7, 2.0**-5, 0.9 * 2.0**-5, 3e-3])
def test_gaps_are_exponential_and_nodes_drawn_evenly(rate):
    count = 20_000
    found = strikes(7, "site a", rate, count / rate)
    assert len(found.times_s) == pytest.approx(count, abs=4 * math.sqrt(count))
    gaps = np.diff(found.times_s) * rate
    n = len(gaps)
    assert gaps.mean() == pytest.approx(1, abs=4 / math.sqrt(n))
    assert (gaps > 1).mean() == pytest.approx(math.exp(-1), abs=4 * math.sqrt(0.24 / n))
    assert np.quantile(found.marks, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.015)


def test_sites_do_not_share_failures():
    one, other = (strikes(0, name, 1e-3, 1e6) for name in ("site a", "site b"))
    assert not set(one.times_s.tolist()) & set(other.times_s.tolist())
    assert not len(strikes(0, "site a", 0.0, 1e6).times_s)


def test_slow_times_are_apart_and_as_long_as_asked():
    found = episodes(1, "line a", per_day=4, mean_s=1200, end_s=2000 * 86_400)
    edges = np.array(found)
    assert (edges[:, 1] > edges[:, 0]).all()
    assert (edges[1:, 0] > edges[:-1, 1]).all()
    # Overlapping ones are one: the line is slow as an M/G/infinity queue is busy, 1 - e^(-rate x mean).
    slow = (edges[:, 1] - edges[:, 0]).sum() / (2000 * 86_400)
    assert slow == pytest.approx(1 - math.exp(-4 * 1200 / 86_400), rel=0.05)
    assert episodes(1, "line a", 0.0, 1200, 1e9) == []


def test_a_transfer_slows_down_inside_a_slow_time_only():
    line = line_of(10e-6, 5.0, [(100e-6, 200e-6)])
    assert [line.arrival(at) for at in (0, 90, 95, 100, 150, 190, 200)] == [10, 100, 125, 150, 200, 208, 210]
    assert [line.is_slow(at) for at in (99, 100, 199, 200)] == [False, True, True, False]
    assert line.quiet_until(0) == 90
    assert line.quiet_until(95) == 95
    assert [line.quiet_until(at) for at in (100, 148, 149, 199)] == [149, 149, 149, 199]
    assert line.quiet_until(200) > 10**18


def test_a_line_that_is_cut_brings_the_transfer_when_it_is_back():
    line = line_of(10.0, 1e12, [(100.0, 500.0)])
    assert line.arrival(micros(98)) == pytest.approx(micros(508), abs=5)


@given(
    starts=st.lists(st.integers(0, 10**6), max_size=6, unique=True),
    transfer=st.integers(0, 10**5),
    factor=st.floats(1, 1e3),
    now=st.integers(0, 10**6),
)
def test_a_later_transfer_is_through_no_earlier(starts, transfer, factor, now):
    edges = sorted(starts)
    slow = [(a / 1e6, (a + b) / 2e6) for a, b in itertools.pairwise(edges)]
    line = line_of(transfer / 1e6, factor, slow)
    assert now + transfer <= line.arrival(now) <= line.arrival(now + 1) + 1
    until = line.quiet_until(now)
    if now < until < 10**7:
        assert line.arrival(until) - until == line.arrival(now) - now


@pytest.mark.parametrize(("mtbf_s", "minutes"), [(86_400, 117), (21_600, 57), (900, 9.1)])
def test_daly_as_in_the_papers_figures(mtbf_s, minutes):
    """Figures 3 to 5: a dump of 5 min."""
    assert daly_interval_s(300, mtbf_s) / 60 == pytest.approx(minutes, abs=0.5)


@given(st.floats(1, 1e4), st.floats(1e2, 1e7))
def test_dalys_interval_is_where_the_expectation_is_highest(delta_s, mtbf_s):
    best_s = daly_interval_s(delta_s, mtbf_s)
    reached = expected_goodput(best_s, delta_s, 60, mtbf_s)
    around = [expected_goodput(best_s * factor, delta_s, 60, mtbf_s) for factor in (0.5, 0.8, 1.25, 2)]
    assert reached >= max(around) * (1 - 2e-3)
    assert young_interval_s(delta_s, mtbf_s) == math.sqrt(2 * delta_s * mtbf_s)


def test_what_never_gets_through_has_no_goodput():
    assert expected_goodput(1e6, 1, 1, 1) == 0.0
    assert expected_goodput(1, 1, 1e6, 1) == 0.0
    assert daly_interval_s(300, 100) == 100
