"""What is recommended, and goodput against one quantity."""

import pytest
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.failures.formulas import daly_interval_s
from isthmus.planner.failures.job import Job, SiteJob
from isthmus.planner.failures.sweep import (
    Horizon,
    advise,
    enough_spares,
    mean_node_mtbf_s,
    measure,
    repeat,
    sweep,
    with_checkpoint,
    with_mtbf,
    with_spares,
)

SITE = SiteJob(
    name="a", nodes=200, mtbf_s=200 * 20_000.0, step_s=5.0, step_tokens=1000, restart_s=300.0,
    repair_s=86_400.0, checkpoint_pause_s=60.0,
)  # fmt: skip
JOB = Job(sites=[SITE], checkpoint_every_s=3600.0)
MONTH = Horizon(days=30.0, repeat=6)


def test_the_spares_advised_are_enough_and_one_fewer_is_not():
    attainable = measure(with_spares(JOB, 10_000), MONTH, 0).goodput
    spares = enough_spares(JOB, MONTH, attainable)
    reached = [measure(with_spares(JOB, each), MONTH, 0).goodput for each in (spares - 1, spares)]
    assert reached[0] < 0.99 * attainable <= reached[1]
    # 4.3 nodes are away on average: a Poisson number.
    assert 5 <= spares <= 15


def test_nothing_that_fails_needs_no_spare():
    calm = replace(JOB, sites=[replace(SITE, mtbf_s=1e15)])
    assert advise(calm, Horizon()).spares == 0


def test_the_interval_advised_is_near_dalys():
    advice = advise(JOB, MONTH)
    daly_s = daly_interval_s(60.0, 20_000.0)
    assert advice.checkpoint_daly_s == pytest.approx(daly_s)
    assert advice.checkpoint_best_s
    assert daly_s / 2.1 <= advice.checkpoint_best_s <= 2.1 * daly_s
    assert advice.checkpoint_best_s % SITE.step_s == 0
    best = with_spares(with_checkpoint(JOB, advice.checkpoint_best_s), 1_000_000)
    assert measure(best, MONTH, 0).goodput > advice.goodput_attainable
    assert advice.goodput_formula == pytest.approx(advice.goodput_attainable, abs=0.02)


@pytest.mark.parametrize("mode", ["elastic", "strict"])
def test_where_windows_are_lost_no_interval_is_advised(mode):
    advice = advise(replace(JOB, mode=mode, inner_steps=50, overlap_s=60.0), Horizon(days=3.0))
    assert advice.checkpoint_daly_s is advice.checkpoint_best_s is advice.goodput_formula is None


def test_no_interval_below_the_writing_of_a_checkpoint():
    slow = replace(JOB, sites=[replace(SITE, checkpoint_durable_s=5000.0)])
    points = sweep(slow, "checkpoint", Horizon(days=3.0))
    assert points[0].value == 5000.0
    assert [point.value for point in points] == sorted({point.value for point in points})


@pytest.mark.parametrize("quantity", ["mtbf", "spares"])
def test_more_is_better(quantity):
    points = sweep(JOB, quantity, MONTH)
    goodputs = [point.goodput for point in points]
    assert goodputs == sorted(goodputs)
    assert goodputs[0] < 0.5 < 0.7 < goodputs[-1]
    assert all(point.low <= point.goodput <= point.high for point in points)


def test_values_may_be_named():
    assert [each.value for each in sweep(JOB, "spares", Horizon(days=1.0), [2, 4])] == [2, 4]


def test_unlike_sites_keep_their_proportion():
    two = replace(JOB, sites=[SITE, replace(SITE, name="b", nodes=100, mtbf_s=1e6)])
    assert mean_node_mtbf_s(two) == pytest.approx(300 / (200 / 4e6 + 100 / 1e6))
    changed = with_mtbf(two, 6e6)
    assert mean_node_mtbf_s(changed) == pytest.approx(6e6)
    assert changed.sites[0].mtbf_s / changed.sites[1].mtbf_s == pytest.approx(4)


def test_repeats_have_other_failures():
    first, second = repeat(JOB, Horizon(days=5.0, seed=3, repeat=2))
    assert (first.seed, second.seed) == (3, 4)
    assert first.outages != second.outages
    with pytest.raises(InputError):
        repeat(JOB, Horizon(repeat=0))
