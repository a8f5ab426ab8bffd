import itertools

import pytest

from isthmus.spec.run import TrainSpec
from isthmus.train.schedule import learning_rate


def test_warmup_is_linear_and_meets_the_peak():
    spec = TrainSpec(lr=1.0, warmup=0.1, schedule="constant")
    assert learning_rate(spec, 0.0) == 0.0
    assert learning_rate(spec, 0.05) == pytest.approx(0.5)
    assert learning_rate(spec, 0.1) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_falls_to_the_floor_and_never_rises_after_warmup(schedule):
    spec = TrainSpec(lr=2.0, warmup=0.1, schedule=schedule, decay=0.3, min_lr_ratio=0.1)
    rates = [learning_rate(spec, i / 100) for i in range(10, 101)]
    assert rates[0] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates))


def test_cosine_halfway_is_the_mean_of_peak_and_floor():
    spec = TrainSpec(lr=1.0, warmup=0.0, schedule="cosine", min_lr_ratio=0.2)
    assert learning_rate(spec, 0.5) == pytest.approx(0.6)


def test_wsd_is_flat_until_its_decay():
    spec = TrainSpec(lr=1.0, warmup=0.1, schedule="wsd", decay=0.25, min_lr_ratio=0.0)
    assert learning_rate(spec, 0.74) == 1.0
    assert learning_rate(spec, 0.875) == pytest.approx(0.5)


def test_constant_stays_at_the_peak():
    spec = TrainSpec(lr=1.0, warmup=0.0, schedule="constant", min_lr_ratio=0.1)
    assert {learning_rate(spec, p) for p in (0.0, 0.5, 1.0)} == {1.0}


def test_degenerate_shares_do_not_divide_by_zero():
    assert learning_rate(TrainSpec(lr=1.0, warmup=1.0), 1.0) == pytest.approx(0.1)
    assert learning_rate(TrainSpec(lr=1.0, warmup=0.0, schedule="wsd", decay=0.0), 1.0) == 1.0
    assert learning_rate(TrainSpec(lr=1.0, warmup=0.0), 1.5) == pytest.approx(0.1)
