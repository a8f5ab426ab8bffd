"""A slow rank: found soon, named rightly, and never without reason."""

import math

import numpy as np
import pytest
from pages import record, view

from isthmus.faults.detect import Readings
from isthmus.faults.detect.slow import SlowDetector, SlowSettings
from isthmus.faults.detect.standing import Standing
from isthmus_bench.faults.detect import Noise, compute_times, slow_delay, watch_slow


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.10])
def test_a_fifth_slower_is_found_within_forty_steps(sigma):
    delay = slow_delay(sigma, num_seeds=40)
    assert delay.p95_steps <= 40
    assert (delay.missed, delay.wrong_rank) == (0, 0)


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.10])
def test_ten_thousand_steps_with_spikes_and_bursts_raise_no_alarm(sigma):
    times_NR = compute_times(11, 20_000, (1.0, 1.3, 1.5, 0.7), Noise(sigma=sigma))
    assert len(watch_slow(times_NR).alarms) <= 1


def test_two_ranks_are_told_apart_by_which_got_slower():
    times_NR = compute_times(2, 1000, (1.0, 2.0), Noise(sigma=0.04))
    times_NR[600:, 1] *= 1.3
    alarms = watch_slow(times_NR).alarms
    assert alarms[0][1] == 1
    assert 600 <= alarms[0][0] < 640


def test_one_rank_is_not_judged():
    times_NR = compute_times(2, 500, (1.0,), Noise())
    times_NR[300:] *= 2
    assert watch_slow(times_NR).alarms == ()


def test_its_end_is_told_and_it_may_come_again():
    times_NR = compute_times(5, 1200, (1.0,) * 4, Noise(sigma=0.05))
    times_NR[400:600, 2] *= 1.3
    times_NR[900:, 2] *= 1.3
    run = watch_slow(times_NR)
    assert [rank for _, rank in run.alarms] == [2, 2]
    assert run.ended == 1


def observe(detector: SlowDetector, times_NR: np.ndarray, first: int = 0, pids: tuple[int, ...] = ()):
    ranks = tuple(range(times_NR.shape[1]))
    found = []
    for n, row in enumerate(times_NR):
        steps = {rank: [record(first + n, float(row[rank]))] for rank in ranks}
        views = {rank: view(pid=pid) for rank, pid in enumerate(pids)}
        found += detector.observe(0.1 * n, Readings(ranks=ranks, steps=steps, views=views))
    return found


def test_what_the_plan_expects_is_held_against_the_rank_from_the_start():
    times_NR = compute_times(3, 100, (1.0, 1.0, 1.0, 1.8), Noise(sigma=0.05))
    expected = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.4}
    (finding,) = observe(SlowDetector(Standing(), SlowSettings(expected=expected)), times_NR)
    assert (finding.kind, finding.rank, finding.lasting) == ("fail_slow", 3, False)
    assert observe(SlowDetector(Standing()), times_NR) == []


def test_a_replaced_process_has_a_level_of_its_own():
    detector = SlowDetector(Standing())
    times_NR = compute_times(4, 300, (1.0,) * 4, Noise(sigma=0.05))
    assert observe(detector, times_NR, 0, (1, 2, 3, 4)) == []
    times_NR = compute_times(5, 300, (1.0, 1.0, 1.0, 2.0), Noise(sigma=0.05))
    assert observe(detector, times_NR, 300, (1, 2, 3, 9)) == []


def test_steps_that_a_rank_never_told_are_dropped():
    detector = SlowDetector(Standing())
    for step in range(1000):
        detector.observe(0.0, Readings(ranks=(0, 1), steps={0: [record(step)]}))
    assert len(detector._times) <= 64


def test_a_finding_says_how_much():
    times_NR = compute_times(7, 800, (1.0,) * 4, Noise(sigma=0.03, spike_share=0, burst_share=0))
    times_NR[500:, 0] *= 1.5
    (finding,) = observe(SlowDetector(Standing()), times_NR)
    assert finding.rank == 0
    ratio = float(finding.what.split("computes ")[1].split()[0])
    assert math.isclose(ratio, 1.5, rel_tol=0.1)
